// Looks up what an open GGUF file holds, and converts its values.
//
// gguf.c has checked that every value lies inside the file; only indices and conversions are
// checked here. Not for overrides or defaults: see metadata.c.

#include "src/model/gguf_file.h"

#include "src/base/status.h"

#include <stdlib.h>
#include <string.h>

static const uint8_t item_bytes[] = {
    [FATHOM_GGUF_UINT8] = 1,   [FATHOM_GGUF_INT8] = 1,   [FATHOM_GGUF_UINT16] = 2,
    [FATHOM_GGUF_INT16] = 2,   [FATHOM_GGUF_UINT32] = 4, [FATHOM_GGUF_INT32] = 4,
    [FATHOM_GGUF_FLOAT32] = 4, [FATHOM_GGUF_BOOL] = 1,   [FATHOM_GGUF_STRING] = 0,
    [FATHOM_GGUF_ARRAY] = 0,   [FATHOM_GGUF_UINT64] = 8, [FATHOM_GGUF_INT64] = 8,
    [FATHOM_GGUF_FLOAT64] = 8,
};

size_t gguf_item_bytes(int32_t type)
{
    return item_bytes[type];
}

int gguf_compare_names(const void *a, const void *b)
{
    const struct fathom_gguf_string *x = *(const struct fathom_gguf_string *const *)a;
    const struct fathom_gguf_string *y = *(const struct fathom_gguf_string *const *)b;
    int order = memcmp(x->text, y->text, x->bytes < y->bytes ? x->bytes : y->bytes);
    return order != 0 ? order : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static const void *find_name(const struct fathom_gguf_string *const *names, size_t count,
                             const char *text)
{
    struct fathom_gguf_string wanted = {.text = text, .bytes = strlen(text)};
    const struct fathom_gguf_string *key = &wanted;
    const struct fathom_gguf_string *const *found =
        bsearch(&key, names, count, sizeof names[0], gguf_compare_names);
    return found != NULL ? *found : NULL;
}

const char *fathom_gguf_path(const fathom_gguf *gguf)
{
    return gguf->path;
}

uint64_t fathom_gguf_file_bytes(const fathom_gguf *gguf)
{
    return gguf->file_bytes;
}

uint32_t fathom_gguf_version(const fathom_gguf *gguf)
{
    return gguf->version;
}

size_t fathom_gguf_entry_count(const fathom_gguf *gguf)
{
    return gguf->n_records;
}

const struct fathom_gguf_entry *fathom_gguf_entry_at(const fathom_gguf *gguf, size_t i)
{
    return i < gguf->n_records ? &gguf->records[i].entry : NULL;
}

const struct fathom_gguf_entry *fathom_gguf_find(const fathom_gguf *gguf, const char *key)
{
    return find_name(gguf->sorted_keys, gguf->n_records, key);
}

size_t fathom_gguf_tensor_count(const fathom_gguf *gguf)
{
    return gguf->n_tensors;
}

const struct fathom_gguf_tensor *fathom_gguf_tensor_at(const fathom_gguf *gguf, size_t i)
{
    return i < gguf->n_tensors ? &gguf->tensors[i] : NULL;
}

const struct fathom_gguf_tensor *fathom_gguf_tensor_find(const fathom_gguf *gguf, const char *name)
{
    return find_name(gguf->sorted_tensors, gguf->n_tensors, name);
}

static fathom_status check_index(const struct fathom_gguf_entry *entry, uint64_t index)
{
    if (entry == NULL) return status_set(FATHOM_EINVAL, "entry: must not be NULL");
    if (index < entry->n_items) return FATHOM_OK;
    return status_set(FATHOM_EINVAL, "%.*s: no item %llu, there are %llu", (int)entry->key.bytes,
                      entry->key.text, (unsigned long long)index,
                      (unsigned long long)entry->n_items);
}

static fathom_status refuse_type(const struct fathom_gguf_entry *entry, const char *wanted)
{
    return status_set(FATHOM_EINVAL, "%.*s: a value of type %d does not hold %s",
                      (int)entry->key.bytes, entry->key.text, entry->item_type, wanted);
}

// Only for scalar item types.
static const uint8_t *item_at(const fathom_gguf *gguf, const struct fathom_gguf_entry *entry,
                              uint64_t index)
{
    const struct record *record = (const struct record *)entry;
    return gguf->bytes + record->value_at + index * item_bytes[entry->item_type];
}

// False for types that are not integers or bool.
static bool load_bits(const uint8_t *at, int32_t type, uint64_t *bits)
{
    bool is_integer = type != FATHOM_GGUF_FLOAT32 && type != FATHOM_GGUF_FLOAT64 &&
                      type != FATHOM_GGUF_STRING && type != FATHOM_GGUF_ARRAY;
    *bits = 0;
    if (is_integer) memcpy(bits, at, item_bytes[type]);
    return is_integer;
}

fathom_status fathom_gguf_as_int(const fathom_gguf *gguf, const struct fathom_gguf_entry *entry,
                                 uint64_t index, int64_t *out)
{
    FATHOM_TRY(check_index(entry, index));
    const uint8_t *at = item_at(gguf, entry, index);
    uint64_t bits = 0;
    if (!load_bits(at, entry->item_type, &bits)) return refuse_type(entry, "an integer");
    switch (entry->item_type) {
    case FATHOM_GGUF_INT8:
        *out = (int8_t)bits;
        break;
    case FATHOM_GGUF_INT16:
        *out = (int16_t)bits;
        break;
    case FATHOM_GGUF_INT32:
        *out = (int32_t)bits;
        break;
    case FATHOM_GGUF_INT64:
        *out = (int64_t)bits;
        break;
    case FATHOM_GGUF_BOOL:
        *out = bits != 0;
        break;
    default:
        if (bits > INT64_MAX) return refuse_type(entry, "an integer below 2^63");
        *out = (int64_t)bits;
    }
    return FATHOM_OK;
}

fathom_status fathom_gguf_as_float(const fathom_gguf *gguf, const struct fathom_gguf_entry *entry,
                                   uint64_t index, double *out)
{
    FATHOM_TRY(check_index(entry, index));
    const uint8_t *at = item_at(gguf, entry, index);
    float single = 0;
    int64_t integer = 0;
    switch (entry->item_type) {
    case FATHOM_GGUF_FLOAT32:
        memcpy(&single, at, sizeof single);
        *out = single;
        return FATHOM_OK;
    case FATHOM_GGUF_FLOAT64:
        memcpy(out, at, sizeof *out);
        return FATHOM_OK;
    case FATHOM_GGUF_BOOL:
    case FATHOM_GGUF_STRING:
    case FATHOM_GGUF_ARRAY:
        return refuse_type(entry, "a number");
    }
    FATHOM_TRY(fathom_gguf_as_int(gguf, entry, index, &integer));
    // Beyond 2^53 not every integer is a double; the largest round up to 2^63.
    double number = (double)integer;
    if (number >= 0x1p63 || (int64_t)number != integer)
        return refuse_type(entry, "a number that a double can hold");
    *out = number;
    return FATHOM_OK;
}

fathom_status fathom_gguf_as_string(const fathom_gguf *gguf, const struct fathom_gguf_entry *entry,
                                    uint64_t index, struct fathom_gguf_string *out)
{
    FATHOM_TRY(check_index(entry, index));
    if (entry->item_type != FATHOM_GGUF_STRING) return refuse_type(entry, "a string");
    const struct record *record = (const struct record *)entry;
    const uint8_t *at =
        gguf->bytes + (record->strings != NULL ? record->strings[index] : record->value_at);
    uint64_t bytes = 0;
    memcpy(&bytes, at, sizeof bytes);
    *out = (struct fathom_gguf_string){.text = (const char *)at + sizeof bytes, .bytes = bytes};
    return FATHOM_OK;
}
