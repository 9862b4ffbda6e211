// The writer of records. It sees rows through the engine's tap, on the thread that feeds the model,
// and keeps an exit code until close, since a tap has nobody to give it to.
//
// Until the record is whole its files have names of their own, so that a run that fails leaves an
// older record as it was.
//
// Queries are kept of steps of one token only. A sequence that is cut back is recorded on from
// there, unless queries of what was cut were kept: then recording ends.

#include "tools/kv_record.h"

#include <assert.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/block.h"
#include "tools/f16.h"
#include "tools/say.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rows are written as they lie in memory");

#define OPTION(member) offsetof(struct kv_record_options, member)

static const struct flag table[] = {
    {"--kv-record", FLAG_TEXT, OPTION(folder), "DIR",
     "write keys, values and queries there, for fathom bench attend --record"},
    {"--kv-record-layers", FLAG_COUNTS, OPTION(layers), "L,...", "which layers; default: all"},
    {"--kv-record-steps", FLAG_COUNTS, OPTION(steps), "N[,SKIP]",
     "queries of N decoded tokens, after SKIP others"},
};

static const char kinds[] = {'k', 'v', 'q'}; // in the order of enum fathom_tap_rows

#define PART ".part" // at the end of names of what is not whole yet

enum { KINDS = sizeof kinds, PART_PATH_BYTES = KV_RECORD_PATH_BYTES + sizeof PART };

struct layer_files {
    uint32_t layer;
    FILE *files[KINDS];
};

struct kv_record {
    const char *folder;
    bool made; // the folder was not there
    fathom_engine *engine;
    struct kv_shape shape;      // n_layers: recorded ones
    struct layer_files *layers; // [shape.n_layers]
    uint16_t *rows;
    size_t rows_capacity;
    uint32_t n_tokens;
    uint32_t *steps; // [n_steps_max] places of tokens whose queries are kept
    uint32_t n_steps, n_steps_max;
    uint32_t n_skip; // steps of one token still to let pass
    bool asking;     // in the current step: its queries are kept
    bool ended;
    int code;
};

struct flag_group kv_record_flags(struct kv_record_options *options)
{
    return (struct flag_group){"Recording", table, sizeof table / sizeof table[0], options};
}

void kv_record_path(char path[KV_RECORD_PATH_BYTES], const char *folder, uint32_t layer, char kind)
{
    snprintf(path, KV_RECORD_PATH_BYTES, "%s/layer-%u.%c.f16", folder, layer, kind);
}

// ---- While the model runs -----------------------------------------------------------------------

static void begin_step(struct kv_record *r, const struct fathom_tap_args *args)
{
    const bool cut = r->n_steps > 0 && args->first_token <= r->steps[r->n_steps - 1];
    r->ended = r->ended || cut || r->n_steps == r->n_steps_max;
    r->asking = false;
    if (r->ended) return;
    r->n_tokens = args->first_token + args->n_tokens;
    if (args->n_tokens > 1) return;
    r->asking = r->n_skip == 0;
    if (r->asking)
        r->steps[r->n_steps++] = args->first_token;
    else
        r->n_skip--;
}

// Writes n values at the place of row `row` of a file with rows of row_values.
static int write_rows(struct kv_record *r, FILE *file, uint64_t row, size_t row_values,
                      const float *rows, size_t n)
{
    SAY_TRY(block_grow(&r->rows, &r->rows_capacity, n, sizeof *r->rows));
    f16_from_floats(r->rows, rows, n);
    const off_t place = (off_t)(row * row_values * sizeof *r->rows);
    if (fseeko(file, place, SEEK_SET) == 0 && fwrite(r->rows, sizeof *r->rows, n, file) == n)
        return EXIT_GOOD;
    return say_error("cannot write to --kv-record %s: %s", r->folder, strerror(errno));
}

static void see(const struct fathom_tap_args *args, void *user)
{
    struct kv_record *r = user;
    const struct kv_shape *p = &r->shape;
    const size_t row_values[] = {(size_t)p->n_kv_heads * p->d_k, (size_t)p->n_kv_heads * p->d_v,
                                 (size_t)p->n_heads * p->d_k};
    if (args->kind == FATHOM_TAP_KEYS && args->layer == 0) begin_step(r, args);
    if (r->ended || r->code != EXIT_GOOD) return;
    if (args->kind == FATHOM_TAP_QUERIES && !r->asking) return;
    for (uint32_t i = 0; i < p->n_layers; i++) {
        if (r->layers[i].layer != args->layer) continue;
        const size_t n = row_values[args->kind];
        const uint64_t row = args->kind == FATHOM_TAP_QUERIES ? r->n_steps - 1 : args->first_token;
        r->code =
            write_rows(r, r->layers[i].files[args->kind], row, n, args->rows, n * args->n_tokens);
    }
}

// ---- Before and after ---------------------------------------------------------------------------

static int choose_layers(struct kv_record *r, const struct flag_counts *list, uint32_t n_layers)
{
    const uint32_t n = list->n > 0 ? list->n : n_layers;
    r->layers = block_new(n, sizeof *r->layers);
    if (r->layers == NULL) return EXIT_BAD;
    r->shape.n_layers = n; // from here on: closing goes through as many
    for (uint32_t i = 0; i < r->shape.n_layers; i++) {
        r->layers[i].layer = list->n > 0 ? list->items[i] : i;
        if (r->layers[i].layer >= n_layers)
            return say_error("--kv-record-layers %u: the model has layers 0 to %u",
                             r->layers[i].layer, n_layers - 1);
        for (uint32_t j = 0; j < i; j++)
            if (r->layers[j].layer == r->layers[i].layer)
                return say_error("--kv-record-layers: layer %u is named twice", r->layers[i].layer);
    }
    return EXIT_GOOD;
}

// Of a file of rows, or with kind KINDS of the index.
static void whole_path(char path[KV_RECORD_PATH_BYTES], const struct kv_record *r, uint32_t i,
                       int kind)
{
    if (kind < KINDS)
        kv_record_path(path, r->folder, r->layers[i].layer, kinds[kind]);
    else
        snprintf(path, KV_RECORD_PATH_BYTES, "%s/index.json", r->folder);
}

static void part_path(char path[PART_PATH_BYTES], const struct kv_record *r, uint32_t i, int kind)
{
    whole_path(path, r, i, kind);
    snprintf(path + strlen(path), sizeof PART, PART);
}

static int create_files(struct kv_record *r)
{
    char path[PART_PATH_BYTES];
    for (uint32_t i = 0; i < r->shape.n_layers; i++)
        for (int kind = 0; kind < KINDS; kind++) {
            part_path(path, r, i, kind);
            r->layers[i].files[kind] = fopen(path, "wb");
            if (r->layers[i].files[kind] == NULL)
                return say_error("cannot create %s: %s", path, strerror(errno));
        }
    return EXIT_GOOD;
}

// An index.json of something else is not replaced.
static int check_older(const char *folder)
{
    char path[KV_RECORD_PATH_BYTES];
    snprintf(path, sizeof path, "%s/index.json", folder);
    if (access(path, F_OK) != 0) return EXIT_GOOD;
    json_t *json = json_load_file(path, 0, NULL);
    const char *format = json_string_value(json_object_get(json, "format"));
    const bool is_record = format != NULL && strcmp(format, KV_RECORD_FORMAT) == 0;
    json_decref(json);
    if (is_record) return EXIT_GOOD;
    return say_error("--kv-record %s: its index.json is no record's, and would be replaced: name "
                     "another folder",
                     folder);
}

static int make_folder(const char *folder, bool *made)
{
    *made = mkdir(folder, 0777) == 0;
    if (*made || errno == EEXIST) return EXIT_GOOD;
    return say_error("cannot create --kv-record %s: %s", folder, strerror(errno));
}

int kv_record_check(const struct kv_record_options *options)
{
    if (options->folder == NULL) return EXIT_GOOD;
    if (options->steps.n > 2 || options->steps.items[0] == 0)
        return say_error("--kv-record-steps: give N[,SKIP], N at least 1");
    bool made;
    SAY_TRY(make_folder(options->folder, &made));
    if (made) (void)rmdir(options->folder); // until there is something to put into it
    char inside[KV_RECORD_PATH_BYTES];
    snprintf(inside, sizeof inside, "%s/.", options->folder); // fails where it is no folder
    if (!made && access(inside, W_OK | X_OK) != 0)
        return say_error("cannot write to --kv-record %s: %s", options->folder, strerror(errno));
    return check_older(options->folder);
}

int kv_record_check_steps(const struct kv_record_options *options, uint64_t n_single)
{
    const uint32_t n_skip = options->steps.n > 1 ? options->steps.items[1] : 0;
    if (options->folder == NULL || n_skip < n_single) return EXIT_GOOD;
    if (n_single == 0)
        return say_error("--kv-record %s: the run feeds no token by itself, so there is no step to "
                         "record: give a larger -n or -c",
                         options->folder);
    return say_error("--kv-record-steps %u,%u: the run feeds at most %llu tokens one by one, and "
                     "none would be left: skip fewer, or give a larger -n or -c",
                     options->steps.items[0], n_skip, (unsigned long long)n_single);
}

void kv_record_say_older(const struct kv_record_options *options)
{
    char path[KV_RECORD_PATH_BYTES];
    if (options->folder == NULL) return;
    snprintf(path, sizeof path, "%s/index.json", options->folder);
    if (access(path, F_OK) == 0)
        say_note("--kv-record %s: replaces the record that is there, once it is whole",
                 options->folder);
}

int kv_record_open(const struct kv_record_options *options, const struct fathom_model_info *info,
                   fathom_engine *engine, struct kv_record **record)
{
    *record = NULL;
    if (options->folder == NULL) return EXIT_GOOD;
    struct kv_record *r = block_new(1, sizeof *r);
    if (r == NULL) return EXIT_BAD;
    *record = r;
    r->folder = options->folder;
    r->engine = engine;
    r->shape.n_heads = info->n_heads;
    r->shape.n_kv_heads = info->n_kv_heads;
    r->shape.d_k = info->d_k;
    r->shape.d_v = info->d_v;
    r->n_steps_max = options->steps.items[0];
    r->n_skip = options->steps.n > 1 ? options->steps.items[1] : 0;
    r->steps = block_new(r->n_steps_max, sizeof *r->steps);
    r->code = r->steps != NULL ? EXIT_GOOD : EXIT_BAD;
    if (r->code == EXIT_GOOD) r->code = choose_layers(r, &options->layers, info->n_layers);
    if (r->code == EXIT_GOOD) r->code = make_folder(r->folder, &r->made);
    if (r->code == EXIT_GOOD) r->code = create_files(r);
    if (r->code == EXIT_GOOD) r->code = say_status(fathom_engine_tap(engine, see, r));
    return r->code;
}

static int write_index(const struct kv_record *r)
{
    char path[PART_PATH_BYTES];
    if (r->n_steps == 0)
        return say_error("--kv-record %s: no token was decoded, so no query is in it", r->folder);
    json_t *layers = json_array(), *steps = json_array();
    for (uint32_t i = 0; i < r->shape.n_layers; i++)
        json_array_append_new(layers, json_integer(r->layers[i].layer));
    for (uint32_t i = 0; i < r->n_steps; i++)
        json_array_append_new(steps, json_integer(r->steps[i]));
    json_t *json =
        json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:o, s:o}", "format", KV_RECORD_FORMAT,
                  "version", KV_RECORD_VERSION, "n_tokens", (int)r->n_tokens, "n_heads",
                  (int)r->shape.n_heads, "n_kv_heads", (int)r->shape.n_kv_heads, "d_k",
                  (int)r->shape.d_k, "d_v", (int)r->shape.d_v, "layers", layers, "steps", steps);
    part_path(path, r, 0, KINDS);
    errno = 0;
    const int failed = json == NULL || json_dump_file(json, path, JSON_COMPACT) != 0;
    json_decref(json);
    return failed ? say_error("cannot write %s: %s", path, strerror(errno)) : EXIT_GOOD;
}

static int close_files(struct kv_record *r)
{
    int code = EXIT_GOOD;
    for (uint32_t i = 0; i < r->shape.n_layers; i++)
        for (int kind = 0; kind < KINDS; kind++) {
            FILE *file = r->layers[i].files[kind];
            if (file != NULL && fclose(file) != 0 && code == EXIT_GOOD)
                code = say_error("cannot write to --kv-record %s: %s", r->folder, strerror(errno));
        }
    return code;
}

static int take_place(const struct kv_record *r, uint32_t i, int kind)
{
    char part[PART_PATH_BYTES], path[KV_RECORD_PATH_BYTES];
    part_path(part, r, i, kind);
    whole_path(path, r, i, kind);
    return rename(part, path) == 0 ? EXIT_GOOD
                                   : say_error("cannot write %s: %s", path, strerror(errno));
}

// The index goes first and comes last: a folder without one is no record.
static int replace_older(const struct kv_record *r)
{
    char path[KV_RECORD_PATH_BYTES];
    whole_path(path, r, 0, KINDS);
    if (remove(path) != 0 && errno != ENOENT)
        return say_error("cannot write %s: %s", path, strerror(errno));
    for (uint32_t i = 0; i < r->shape.n_layers; i++)
        for (int kind = 0; kind < KINDS; kind++)
            SAY_TRY(take_place(r, i, kind));
    return take_place(r, 0, KINDS);
}

static void remove_parts(const struct kv_record *r)
{
    char path[PART_PATH_BYTES];
    for (uint32_t i = 0; i < r->shape.n_layers; i++)
        for (int kind = 0; kind <= KINDS; kind++) {
            part_path(path, r, i, kind);
            (void)remove(path); // which may never have been made
        }
}

int kv_record_close(struct kv_record **record, bool keep)
{
    struct kv_record *r = *record;
    if (r == NULL) return EXIT_GOOD;
    int code = r->code;
    if (code == EXIT_GOOD) code = say_status(fathom_engine_tap(r->engine, NULL, NULL));
    const int close_code = close_files(r);
    if (code == EXIT_GOOD) code = close_code;
    if (code == EXIT_GOOD && keep) code = write_index(r);
    if (code == EXIT_GOOD && keep) code = replace_older(r);
    if (code != EXIT_GOOD || !keep) remove_parts(r);
    if (r->made && (code != EXIT_GOOD || !keep)) (void)rmdir(r->folder);
    block_free(r->layers);
    block_free(r->rows);
    block_free(r->steps);
    block_free(r);
    *record = NULL;
    return code;
}
