// The reader of records: what `fathom run --kv-record` wrote, as a source of rows.

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "tools/block.h"
#include "tools/f16.h"
#include "tools/kv_record.h"
#include "tools/say.h"

struct kv_replay {
    const char *folder;
    struct kv_shape shape;
    uint32_t n_tokens;
    uint32_t *layers; // [shape.n_layers] numbers in the files' names
    FILE **files;     // [shape.n_layers][3]: k, v, q
    uint32_t *places; // [n_steps]
    uint32_t n_steps;
    uint16_t *rows;
    size_t rows_capacity;
};

static int read_list(const struct kv_replay *r, const json_t *list, uint32_t **out, uint32_t *n)
{
    *n = (uint32_t)json_array_size(list);
    if (*n == 0)
        return say_error("%s/index.json: \"layers\" and \"steps\" list numbers", r->folder);
    *out = block_new(*n, sizeof **out);
    if (*out == NULL) return EXIT_BAD;
    for (uint32_t i = 0; i < *n; i++) {
        const json_int_t value = json_integer_value(json_array_get(list, i));
        if (value < 0 || value > INT32_MAX)
            return say_error("%s/index.json: %lld is no layer and no place", r->folder,
                             (long long)value);
        (*out)[i] = (uint32_t)value;
    }
    return EXIT_GOOD;
}

static int check_places(const struct kv_replay *r)
{
    for (uint32_t i = 0; i < r->n_steps; i++)
        if (r->places[i] >= r->n_tokens || (i > 0 && r->places[i] <= r->places[i - 1]))
            return say_error("%s/index.json: \"steps\" must ascend below n_tokens", r->folder);
    return EXIT_GOOD;
}

static int read_index(struct kv_replay *r, json_t *json)
{
    const char *format;
    json_error_t error;
    json_t *layers, *steps;
    int version, n_tokens, n_heads, n_kv_heads, d_k, d_v;
    if (json_unpack_ex(json, &error, 0, "{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:o, s:o}", "format",
                       &format, "version", &version, "n_tokens", &n_tokens, "n_heads", &n_heads,
                       "n_kv_heads", &n_kv_heads, "d_k", &d_k, "d_v", &d_v, "layers", &layers,
                       "steps", &steps) != 0)
        return say_error("%s/index.json: %s", r->folder, error.text);
    if (strcmp(format, KV_RECORD_FORMAT) != 0 || version != KV_RECORD_VERSION)
        return say_error("%s/index.json: not a record of version %d", r->folder, KV_RECORD_VERSION);
    if (n_tokens < 1 || n_heads < 1 || n_kv_heads < 1 || d_k < 1 || d_v < 1)
        return say_error("%s/index.json: sizes must be above 0", r->folder);
    r->n_tokens = (uint32_t)n_tokens;
    SAY_TRY(read_list(r, layers, &r->layers, &r->shape.n_layers));
    SAY_TRY(read_list(r, steps, &r->places, &r->n_steps));
    r->shape.n_heads = (uint32_t)n_heads;
    r->shape.n_kv_heads = (uint32_t)n_kv_heads;
    r->shape.d_k = (uint32_t)d_k;
    r->shape.d_v = (uint32_t)d_v;
    return check_places(r);
}

static int open_files(struct kv_replay *r)
{
    static const char kinds[] = {'k', 'v', 'q'};
    char path[KV_RECORD_PATH_BYTES];
    r->files = block_new(r->shape.n_layers, sizeof kinds * sizeof *r->files);
    if (r->files == NULL) return EXIT_BAD;
    for (uint32_t i = 0; i < r->shape.n_layers; i++)
        for (uint32_t kind = 0; kind < sizeof kinds; kind++) {
            kv_record_path(path, r->folder, r->layers[i], kinds[kind]);
            FILE *file = fopen(path, "rb");
            r->files[i * sizeof kinds + kind] = file;
            if (file == NULL) return say_error("cannot open %s: %s", path, strerror(errno));
        }
    return EXIT_GOOD;
}

int kv_replay_open(const char *folder, struct kv_replay **replay)
{
    char path[KV_RECORD_PATH_BYTES];
    json_error_t error;
    struct kv_replay *r = block_new(1, sizeof *r);
    if (r == NULL) return EXIT_BAD;
    *replay = r;
    r->folder = folder;
    snprintf(path, sizeof path, "%s/index.json", folder);
    json_t *json = json_load_file(path, 0, &error);
    // Of a file that cannot be opened the text tells its name, too.
    if (json == NULL && error.line < 1) return say_error("--record: %s", error.text);
    if (json == NULL) return say_error("%s, line %d: %s", path, error.line, error.text);
    int code = read_index(r, json);
    json_decref(json);
    return code == EXIT_GOOD ? open_files(r) : code;
}

void kv_replay_close(struct kv_replay **replay)
{
    struct kv_replay *r = *replay;
    if (r == NULL) return;
    for (uint32_t i = 0; r->files != NULL && i < 3 * r->shape.n_layers; i++)
        if (r->files[i] != NULL) (void)fclose(r->files[i]); // of a file that was read
    block_free(r->files);
    block_free(r->layers);
    block_free(r->places);
    block_free(r->rows);
    block_free(r);
    *replay = NULL;
}

static int read_rows(struct kv_replay *r, uint32_t layer, uint32_t kind, uint64_t row,
                     size_t row_values, uint32_t n, float *out)
{
    const size_t n_values = n * row_values;
    FILE *file = r->files[3 * layer + kind];
    SAY_TRY(block_grow(&r->rows, &r->rows_capacity, n_values, sizeof *r->rows));
    errno = 0;
    if (fseeko(file, (off_t)(row * row_values * sizeof *r->rows), SEEK_SET) != 0 ||
        fread(r->rows, sizeof *r->rows, n_values, file) != n_values)
        return say_error("--record %s: cannot read layer %u: %s", r->folder, r->layers[layer],
                         errno != 0 ? strerror(errno) : "the file is too short");
    f16_to_floats(out, r->rows, n_values);
    return EXIT_GOOD;
}

static int replay_rows(void *self, uint32_t layer, uint32_t first, uint32_t n, float *k, float *v)
{
    struct kv_replay *r = self;
    const struct kv_shape *p = &r->shape;
    SAY_TRY(read_rows(r, layer, 0, first, (size_t)p->n_kv_heads * p->d_k, n, k));
    return read_rows(r, layer, 1, first, (size_t)p->n_kv_heads * p->d_v, n, v);
}

static int replay_queries(void *self, uint32_t layer, uint32_t step, float *q)
{
    struct kv_replay *r = self;
    return read_rows(r, layer, 2, step, (size_t)r->shape.n_heads * r->shape.d_k, 1, q);
}

struct kv_source kv_replay_source(struct kv_replay *replay)
{
    return (struct kv_source){
        .shape = replay->shape,
        .places = replay->places,
        .n_steps = replay->n_steps,
        .self = replay,
        .rows = replay_rows,
        .queries = replay_queries,
    };
}
