// Looks up metadata keys: the user's overrides first, then the file.
//
// Every message names the key as the file spells it, since users see these keys in `inspect` and
// set them with overrides. A wrong override is the caller's fault (EINVAL), a wrong value in the
// file the file's (ECORRUPT).

#include "src/model/metadata.h"

#include "src/base/mem.h"
#include "src/base/status.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    KEY_BYTES_MAX = 512, // of a key in the source with the architecture filled in
};

enum kind {
    KIND_INT,
    KIND_FLOAT,
    KIND_BOOL,
    KIND_STRING,
};

static const char *const kind_names[] = {"int", "float", "bool", "str"};

struct override {
    const char *key; // zero-terminated
    enum kind kind;
    union {
        int64_t integer; // also of bool
        double number;
        struct fathom_gguf_string string;
    } value;
    bool asked_for; // looked up
};

struct metadata {
    struct arena arena; // of what follows
    const fathom_gguf *gguf;
    struct override *overrides; // [n_overrides]
    uint32_t n_overrides;
    struct fathom_gguf_string architecture; // .text NULL if there is none
};

// What a key stands for: an override, an entry, or neither.
struct found {
    char key[KEY_BYTES_MAX];
    const struct override *override;
    const struct fathom_gguf_entry *entry;
};

// True if all of text is an integer of 64 bits.
static bool parse_int(const char *text, int64_t *out)
{
    char *end = NULL;
    errno = 0;
    *out = strtoll(text, &end, 10);
    return errno == 0 && end != text && *end == 0;
}

static bool parse_float(const char *text, double *out)
{
    char *end = NULL;
    *out = strtod(text, &end);
    return end != text && *end == 0 && isfinite(*out);
}

static bool parse_value(const char *text, struct override *override)
{
    switch (override->kind) {
    case KIND_INT:
        return parse_int(text, &override->value.integer);
    case KIND_FLOAT:
        return parse_float(text, &override->value.number);
    case KIND_BOOL:
        override->value.integer = strcmp(text, "true") == 0;
        return override->value.integer != 0 || strcmp(text, "false") == 0;
    case KIND_STRING:
        override->value.string = (struct fathom_gguf_string){.text = text, .bytes = strlen(text)};
        return true;
    }
    return false;
}

// Splits text, which must stay as long as the override: KEY=KIND:VALUE.
static bool parse_override(char *text, struct override *override)
{
    char *kind = strchr(text, '=');
    if (kind == NULL || kind == text) return false;
    *kind++ = 0;
    char *value = strchr(kind, ':');
    if (value == NULL) return false;
    *value++ = 0;
    override->key = text;
    for (size_t i = 0; i < sizeof kind_names / sizeof kind_names[0]; i++) {
        if (strcmp(kind, kind_names[i]) != 0) continue;
        override->kind = (enum kind)i;
        return parse_value(value, override);
    }
    return false;
}

static fathom_status read_overrides(const char *const *texts, struct metadata *metadata)
{
    for (uint32_t i = 0; i < metadata->n_overrides; i++) {
        if (texts[i] == NULL) return status_set(FATHOM_EINVAL, "override %u: must not be NULL", i);
        char *copy = NULL;
        FATHOM_TRY(arena_string(&metadata->arena, texts[i], strlen(texts[i]), &copy));
        if (!parse_override(copy, &metadata->overrides[i]))
            return status_set(FATHOM_EINVAL,
                              "override '%s': must be KEY=int:V, KEY=float:V, KEY=bool:true, "
                              "KEY=bool:false or KEY=str:V",
                              texts[i]);
    }
    return FATHOM_OK;
}

fathom_status metadata_open(const fathom_gguf *gguf, const char *const *overrides,
                            uint32_t n_overrides, struct metadata **out)
{
    fathom_status status = FATHOM_OK;
    struct metadata *metadata = NULL;
    FATHOM_TRY(mem_new(1, sizeof *metadata, "metadata", &metadata));
    metadata->gguf = gguf;
    FATHOM_CHECK(arena_new(&metadata->arena, n_overrides, sizeof *metadata->overrides, "overrides",
                           &metadata->overrides),
                 out);
    metadata->n_overrides = n_overrides;
    FATHOM_CHECK(read_overrides(overrides, metadata), out);
    FATHOM_CHECK(metadata_string(metadata, "general.architecture", NULL, &metadata->architecture),
                 out);
    *out = metadata;
    return FATHOM_OK;
out:
    metadata_close(&metadata);
    return status;
}

void metadata_close(struct metadata **metadata)
{
    if (metadata == NULL || *metadata == NULL) return;
    arena_fini(&(*metadata)->arena);
    mem_free(*metadata);
    *metadata = NULL;
}

const fathom_gguf *metadata_gguf(const struct metadata *metadata)
{
    return metadata->gguf;
}

// Copies a key with "%s" replaced by the architecture.
static fathom_status expand_key(const struct metadata *metadata, const char *key, char *out)
{
    const struct fathom_gguf_string *architecture = &metadata->architecture;
    const char *mark = strstr(key, "%s");
    size_t head_bytes = mark != NULL ? (size_t)(mark - key) : strlen(key);
    size_t middle_bytes = mark != NULL ? architecture->bytes : 0;
    const char *tail = mark != NULL ? mark + 2 : "";
    if (mark != NULL && architecture->text == NULL)
        return status_set(FATHOM_ECORRUPT, "%s: general.architecture is missing", key);
    if (middle_bytes >= KEY_BYTES_MAX - head_bytes - strlen(tail))
        return status_set(FATHOM_ECORRUPT, "%s: general.architecture of %zu bytes is too long", key,
                          middle_bytes);
    memcpy(out, key, head_bytes);
    if (middle_bytes > 0) memcpy(out + head_bytes, architecture->text, middle_bytes);
    memcpy(out + head_bytes + middle_bytes, tail, strlen(tail) + 1);
    return FATHOM_OK;
}

// The last of several overrides of a key counts.
static fathom_status find(const struct metadata *metadata, const char *key, struct found *found)
{
    FATHOM_TRY(expand_key(metadata, key, found->key));
    found->override = NULL;
    for (uint32_t i = 0; i < metadata->n_overrides; i++)
        if (strcmp(metadata->overrides[i].key, found->key) == 0) {
            metadata->overrides[i].asked_for = true;
            found->override = &metadata->overrides[i];
        }
    found->entry = fathom_gguf_find(metadata->gguf, found->key);
    return FATHOM_OK;
}

fathom_status metadata_check_overrides(const struct metadata *metadata)
{
    for (uint32_t i = 0; i < metadata->n_overrides; i++) {
        const struct override *override = &metadata->overrides[i];
        if (override->asked_for || fathom_gguf_find(metadata->gguf, override->key) != NULL)
            continue;
        return status_set(FATHOM_EINVAL,
                          "override of %s: the file has no such key, and nothing looks it up for "
                          "this model: check its spelling",
                          override->key);
    }
    return FATHOM_OK;
}

// Whose fault a value is.
static fathom_status refuse(const struct found *found, const char *wanted)
{
    if (found->override != NULL)
        return status_set(FATHOM_EINVAL, "override of %s: must be %s", found->key, wanted);
    return status_set(FATHOM_ECORRUPT, "%s: must be %s", found->key, wanted);
}

static bool is_scalar(const struct found *found)
{
    return found->entry != NULL && found->entry->type != FATHOM_GGUF_ARRAY;
}

bool metadata_has(const struct metadata *metadata, const char *key)
{
    struct found found;
    if (find(metadata, key, &found) < 0) return false;
    return found.override != NULL || found.entry != NULL;
}

// An integer in min .. max; `wanted` describes it.
static fathom_status get_int(const struct metadata *metadata, const char *key, int64_t fallback,
                             int64_t min, int64_t max, const char *wanted, int64_t *out)
{
    struct found found;
    int64_t value = fallback;
    bool good = true;
    FATHOM_TRY(find(metadata, key, &found));
    if (found.override != NULL) {
        good = found.override->kind == KIND_INT || found.override->kind == KIND_BOOL;
        value = found.override->value.integer;
    } else if (found.entry != NULL) {
        good = is_scalar(&found) &&
               fathom_gguf_as_int(metadata->gguf, found.entry, 0, &value) == FATHOM_OK;
    }
    if (!good || value < min || value > max) return refuse(&found, wanted);
    *out = value;
    return FATHOM_OK;
}

fathom_status metadata_u32(const struct metadata *metadata, const char *key, uint32_t fallback,
                           uint32_t *out)
{
    int64_t value = 0;
    FATHOM_TRY(
        get_int(metadata, key, fallback, 0, UINT32_MAX, "an integer from 0 to 4294967295", &value));
    *out = (uint32_t)value;
    return FATHOM_OK;
}

fathom_status metadata_i32(const struct metadata *metadata, const char *key, int32_t fallback,
                           int32_t *out)
{
    int64_t value = 0;
    FATHOM_TRY(get_int(metadata, key, fallback, INT32_MIN, INT32_MAX,
                       "an integer from -2147483648 to 2147483647", &value));
    *out = (int32_t)value;
    return FATHOM_OK;
}

fathom_status metadata_bool(const struct metadata *metadata, const char *key, bool fallback,
                            bool *out)
{
    int64_t value = 0;
    FATHOM_TRY(get_int(metadata, key, fallback, 0, 1, "true or false", &value));
    *out = value != 0;
    return FATHOM_OK;
}

fathom_status metadata_f32(const struct metadata *metadata, const char *key, float fallback,
                           float *out)
{
    struct found found;
    double value = fallback;
    bool good = true;
    FATHOM_TRY(find(metadata, key, &found));
    if (found.override != NULL) {
        good = found.override->kind == KIND_INT || found.override->kind == KIND_FLOAT;
        value = found.override->kind == KIND_INT ? (double)found.override->value.integer
                                                 : found.override->value.number;
    } else if (found.entry != NULL) {
        good = is_scalar(&found) &&
               fathom_gguf_as_float(metadata->gguf, found.entry, 0, &value) == FATHOM_OK;
    }
    if (!good || !isfinite((float)value)) return refuse(&found, "a finite number");
    *out = (float)value;
    return FATHOM_OK;
}

fathom_status metadata_string(const struct metadata *metadata, const char *key,
                              const char *fallback, struct fathom_gguf_string *out)
{
    struct found found;
    struct fathom_gguf_string value = {.text = fallback,
                                       .bytes = fallback != NULL ? strlen(fallback) : 0};
    bool good = true;
    FATHOM_TRY(find(metadata, key, &found));
    if (found.override != NULL) {
        good = found.override->kind == KIND_STRING;
        value = found.override->value.string;
    } else if (found.entry != NULL) {
        good = is_scalar(&found) &&
               fathom_gguf_as_string(metadata->gguf, found.entry, 0, &value) == FATHOM_OK;
    }
    if (!good) return refuse(&found, "a string");
    *out = value;
    return FATHOM_OK;
}

static bool is_integer(int32_t type)
{
    return type <= FATHOM_GGUF_INT32 || type == FATHOM_GGUF_BOOL || type == FATHOM_GGUF_UINT64 ||
           type == FATHOM_GGUF_INT64;
}

static bool is_float(int32_t type)
{
    return type == FATHOM_GGUF_FLOAT32 || type == FATHOM_GGUF_FLOAT64;
}

fathom_status metadata_array(const struct metadata *metadata, const char *key, int32_t item_type,
                             const struct fathom_gguf_entry **out)
{
    struct found found;
    FATHOM_TRY(find(metadata, key, &found));
    const struct fathom_gguf_entry *entry = found.entry;
    if (found.override != NULL || entry == NULL || entry->type != FATHOM_GGUF_ARRAY) {
        *out = NULL;
        return FATHOM_OK;
    }
    bool good = entry->item_type == item_type ||
                (is_integer(item_type) && is_integer(entry->item_type)) ||
                (is_float(item_type) && is_float(entry->item_type));
    if (!good)
        return refuse(&found, is_integer(item_type)             ? "an array of integers"
                              : is_float(item_type)             ? "an array of floats"
                              : item_type == FATHOM_GGUF_STRING ? "an array of strings"
                                                                : "an array of another type");
    *out = entry;
    return FATHOM_OK;
}
