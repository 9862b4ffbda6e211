// Opens a GGUF file: maps it and reads its header, the metadata entries and the table of tensors.
//
// The file is input from strangers. Every read is checked against the end of the file; every count
// is checked against the bytes that are left for what it counts, and all tables together may take
// no more memory than the file has bytes, plus `SLACK_BYTES`. Tensors must follow each other in the
// order of the table without overlapping (as every writer lays them out), so the tensors of a file
// never add up to more than the file. Whoever truncates the file while it is mapped gets SIGBUS;
// that is the price of mapping.
//
// Not for values (gguf_items.c), the meaning of keys (metadata.c) or the tensors' contents.

#include "src/model/gguf_file.h"

#include "src/base/dtype.h"
#include "src/base/mem.h"
#include "src/base/status.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are read as they lie");
static_assert(sizeof(size_t) == 8, "sizes in the file are 64-bit");

enum {
    NAME_BYTES_MAX = 65535, // the format's limit for keys
    NESTING_MAX = 8,        // of arrays in arrays
    ALIGNMENT_DEFAULT = 32,
    ALIGNMENT_MIN = 8,
    SLACK_BYTES = 1 << 20, // tables of a few thousand entries, whatever the size of the file
    // What one item takes in the file at the least.
    ENTRY_FILE_BYTES = 8 + 1 + 4 + 1,       // key, type, value
    TENSOR_FILE_BYTES = 8 + 1 + 4 + 8 + 12, // name, n_dims, one dimension, type and offset
    STRING_FILE_BYTES = 8,
};

struct reader {
    fathom_gguf *gguf;
    size_t at; // next byte to read
};

static size_t left_bytes(const struct reader *reader)
{
    return reader->gguf->file_bytes - reader->at;
}

static fathom_status skip(struct reader *reader, uint64_t bytes)
{
    if (bytes > left_bytes(reader))
        return status_set(FATHOM_ECORRUPT, "%llu bytes needed at offset %zu, the file has %zu left",
                          (unsigned long long)bytes, reader->at, left_bytes(reader));
    reader->at += bytes;
    return FATHOM_OK;
}

static fathom_status read_u32(struct reader *reader, uint32_t *out)
{
    FATHOM_TRY(skip(reader, sizeof *out));
    memcpy(out, reader->gguf->bytes + reader->at - sizeof *out, sizeof *out);
    return FATHOM_OK;
}

static fathom_status read_u64(struct reader *reader, uint64_t *out)
{
    FATHOM_TRY(skip(reader, sizeof *out));
    memcpy(out, reader->gguf->bytes + reader->at - sizeof *out, sizeof *out);
    return FATHOM_OK;
}

static fathom_status read_string(struct reader *reader, struct fathom_gguf_string *out)
{
    uint64_t bytes = 0;
    FATHOM_TRY(read_u64(reader, &bytes));
    FATHOM_TRY(skip(reader, bytes));
    *out = (struct fathom_gguf_string){
        .text = (const char *)reader->gguf->bytes + reader->at - bytes, .bytes = bytes};
    return FATHOM_OK;
}

// Names end up in messages and are compared with C strings: no control characters.
static fathom_status read_name(struct reader *reader, struct fathom_gguf_string *out)
{
    size_t at = reader->at;
    FATHOM_TRY(read_string(reader, out));
    if (out->bytes < 1 || out->bytes > NAME_BYTES_MAX)
        return status_set(FATHOM_ECORRUPT, "name of %zu bytes at offset %zu, 1 to %d are allowed",
                          out->bytes, at, NAME_BYTES_MAX);
    for (size_t i = 0; i < out->bytes; i++)
        if ((uint8_t)out->text[i] < 0x20 || out->text[i] == 0x7f)
            return status_set(FATHOM_ECORRUPT, "name at offset %zu contains byte 0x%02x", at,
                              (uint8_t)out->text[i]);
    return FATHOM_OK;
}

// A table in memory for `count` items, each of which takes item_file_bytes or more from here on.
static fathom_status new_table(struct reader *reader, uint64_t count, size_t item_file_bytes,
                               size_t item_bytes, const char *what, void *out)
{
    // What is taken never exceeds the budget: the chunk that a table may begin is counted before.
    size_t taken_bytes = reader->gguf->arena.total_bytes + ARENA_CHUNK_BYTES;
    size_t budget_bytes = reader->gguf->file_bytes + SLACK_BYTES;
    if (count > left_bytes(reader) / item_file_bytes || taken_bytes > budget_bytes ||
        count * item_bytes > budget_bytes - taken_bytes)
        return status_set(FATHOM_ECORRUPT, "%llu %s cannot lie in the %zu bytes from offset %zu",
                          (unsigned long long)count, what, left_bytes(reader), reader->at);
    return arena_new(&reader->gguf->arena, count, item_bytes, what, out);
}

static fathom_status check_type(const struct reader *reader, uint32_t type)
{
    if (type <= FATHOM_GGUF_FLOAT64) return FATHOM_OK;
    return status_set(FATHOM_ECORRUPT, "unknown type %u at offset %zu", type, reader->at - 4);
}

static fathom_status read_array_head(struct reader *reader, uint32_t *item_type, uint64_t *n_items)
{
    FATHOM_TRY(read_u32(reader, item_type));
    FATHOM_TRY(check_type(reader, *item_type));
    return read_u64(reader, n_items);
}

// Passes an array's items; strings[n_items] gets their offsets unless NULL. Takes time in
// proportion to the bytes passed: strings and arrays cannot be empty of bytes.
static fathom_status skip_items(struct reader *reader, uint32_t item_type, uint64_t n_items,
                                uint32_t nesting, size_t *strings)
{
    if (nesting > NESTING_MAX)
        return status_set(FATHOM_ECORRUPT, "arrays nested more than %d deep at offset %zu",
                          NESTING_MAX, reader->at);
    size_t item_bytes = gguf_item_bytes((int32_t)item_type);
    if (item_bytes > 0) {
        size_t bytes = 0;
        if (!size_mul(n_items, item_bytes, &bytes)) bytes = SIZE_MAX;
        return skip(reader, bytes);
    }
    for (uint64_t i = 0; i < n_items; i++) {
        if (item_type == FATHOM_GGUF_STRING) {
            struct fathom_gguf_string string;
            if (strings != NULL) strings[i] = reader->at;
            FATHOM_TRY(read_string(reader, &string));
        } else {
            uint32_t inner_type = 0;
            uint64_t n_inner = 0;
            FATHOM_TRY(read_array_head(reader, &inner_type, &n_inner));
            FATHOM_TRY(skip_items(reader, inner_type, n_inner, nesting + 1, NULL));
        }
    }
    return FATHOM_OK;
}

static fathom_status read_value(struct reader *reader, struct record *record)
{
    uint32_t type = 0;
    FATHOM_TRY(read_u32(reader, &type));
    FATHOM_TRY(check_type(reader, type));
    uint32_t item_type = type;
    uint64_t n_items = 1;
    if (type == FATHOM_GGUF_ARRAY) FATHOM_TRY(read_array_head(reader, &item_type, &n_items));
    record->entry.type = (int32_t)type;
    record->entry.item_type = (int32_t)item_type;
    record->entry.n_items = n_items;
    record->value_at = reader->at;
    size_t *strings = NULL;
    if (type == FATHOM_GGUF_ARRAY && item_type == FATHOM_GGUF_STRING)
        FATHOM_TRY(
            new_table(reader, n_items, STRING_FILE_BYTES, sizeof *strings, "strings", &strings));
    record->strings = strings;
    return skip_items(reader, item_type, n_items, 0, strings);
}

static fathom_status read_records(struct reader *reader)
{
    fathom_gguf *gguf = reader->gguf;
    for (size_t i = 0; i < gguf->n_records; i++) {
        struct fathom_gguf_string *key = &gguf->records[i].entry.key;
        fathom_status status = read_name(reader, key);
        if (status < 0) return status_prefix(status, "metadata entry %zu", i);
        status = read_value(reader, &gguf->records[i]);
        if (status < 0) return status_prefix(status, "%.*s", (int)key->bytes, key->text);
    }
    return FATHOM_OK;
}

// Places the tensor's data; *end is where the tensor before it ends and gets where this one does.
// On entry tensor->bytes is the data's offset as in the file.
static fathom_status place_tensor(const struct reader *reader, size_t alignment, size_t *end,
                                  struct fathom_gguf_tensor *tensor)
{
    uint64_t offset = tensor->bytes;
    const struct dtype *dtype = dtype_find(tensor->type);
    size_t row_bytes = 0, bytes = 0;
    if (offset % alignment != 0)
        return status_set(FATHOM_ECORRUPT, "data offset %llu is no multiple of %zu",
                          (unsigned long long)offset, alignment);
    if (offset < *end)
        return status_set(FATHOM_ECORRUPT, "data offset %llu is inside the tensor before it",
                          (unsigned long long)offset);
    if (dtype != NULL) {
        if (tensor->dims[0] % dtype->block_values != 0)
            return status_set(FATHOM_ECORRUPT, "rows of %llu values are no multiple of %s's %u",
                              (unsigned long long)tensor->dims[0], dtype->name,
                              dtype->block_values);
        bool fits =
            size_mul(tensor->dims[0] / dtype->block_values, dtype->block_bytes, &row_bytes) &&
            size_mul(row_bytes, tensor->dims[1], &bytes) &&
            size_mul(bytes, tensor->dims[2], &bytes) && size_mul(bytes, tensor->dims[3], &bytes);
        if (!fits) bytes = SIZE_MAX;
    }
    // The data begin at reader->at, which the caller has rounded up, perhaps beyond the file.
    size_t data_bytes =
        reader->at < reader->gguf->file_bytes ? reader->gguf->file_bytes - reader->at : 0;
    if (offset > data_bytes || bytes > data_bytes - offset)
        return status_set(FATHOM_ECORRUPT,
                          "data of %zu bytes at offset %llu do not fit the file's %zu bytes of "
                          "tensor data: it may be cut short",
                          bytes, (unsigned long long)offset, data_bytes);
    tensor->bytes = bytes;
    tensor->data = dtype != NULL ? reader->gguf->bytes + reader->at + offset : NULL;
    *end = offset + bytes;
    return FATHOM_OK;
}

static fathom_status read_tensor(struct reader *reader, struct fathom_gguf_tensor *tensor)
{
    uint32_t type = 0;
    FATHOM_TRY(read_u32(reader, &tensor->n_dims));
    if (tensor->n_dims < 1 || tensor->n_dims > 4)
        return status_set(FATHOM_ECORRUPT, "%u dimensions at offset %zu, 1 to 4 are allowed",
                          tensor->n_dims, reader->at - 4);
    for (uint32_t i = 0; i < 4; i++) {
        tensor->dims[i] = 1;
        if (i < tensor->n_dims) FATHOM_TRY(read_u64(reader, &tensor->dims[i]));
        if (tensor->dims[i] < 1)
            return status_set(FATHOM_ECORRUPT, "dimension of 0 at offset %zu", reader->at - 8);
    }
    FATHOM_TRY(read_u32(reader, &type));
    tensor->type = (int32_t)type;
    return read_u64(reader, &tensor->bytes);
}

// Data offsets are relative to the end of the table, so a second pass places the data.
static fathom_status read_tensors(struct reader *reader, size_t alignment)
{
    fathom_gguf *gguf = reader->gguf;
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        struct fathom_gguf_string *name = &gguf->tensors[i].name;
        fathom_status status = read_name(reader, name);
        if (status < 0) return status_prefix(status, "tensor %zu", i);
        status = read_tensor(reader, &gguf->tensors[i]);
        if (status < 0) return status_prefix(status, "%.*s", (int)name->bytes, name->text);
    }
    reader->at = size_round(reader->at, alignment);
    size_t end = 0;
    for (size_t i = 0; i < gguf->n_tensors; i++) {
        struct fathom_gguf_string *name = &gguf->tensors[i].name;
        fathom_status status = place_tensor(reader, alignment, &end, &gguf->tensors[i]);
        if (status < 0) return status_prefix(status, "%.*s", (int)name->bytes, name->text);
    }
    return FATHOM_OK;
}

// Sorts and refuses names that occur twice.
static fathom_status sort_names(const struct fathom_gguf_string **names, size_t count,
                                const char *what)
{
    if (count == 0) return FATHOM_OK;
    qsort(names, count, sizeof names[0], gguf_compare_names);
    for (size_t i = 1; i < count; i++)
        if (gguf_compare_names(&names[i - 1], &names[i]) == 0)
            return status_set(FATHOM_ECORRUPT, "%s %.*s occurs twice", what, (int)names[i]->bytes,
                              names[i]->text);
    return FATHOM_OK;
}

static fathom_status read_alignment(const fathom_gguf *gguf, size_t *alignment)
{
    const struct fathom_gguf_entry *entry = fathom_gguf_find(gguf, "general.alignment");
    int64_t value = ALIGNMENT_DEFAULT;
    if (entry != NULL && entry->type != FATHOM_GGUF_UINT32)
        return status_set(FATHOM_ECORRUPT, "general.alignment: must be of type uint32");
    if (entry != NULL) FATHOM_TRY(fathom_gguf_as_int(gguf, entry, 0, &value));
    if (value < ALIGNMENT_MIN || (value & (value - 1)) != 0)
        return status_set(FATHOM_ECORRUPT,
                          "general.alignment: %lld must be a power of two, %d or more",
                          (long long)value, ALIGNMENT_MIN);
    *alignment = (size_t)value;
    return FATHOM_OK;
}

static fathom_status read_preamble(struct reader *reader, uint64_t *n_tensors, uint64_t *n_records)
{
    uint32_t magic = 0;
    uint32_t *version = &reader->gguf->version;
    if (read_u32(reader, &magic) != FATHOM_OK || magic != 0x46554747)
        return status_set(FATHOM_ECORRUPT, "no GGUF file, which would begin with \"GGUF\"");
    FATHOM_TRY(read_u32(reader, version));
    if (*version != 0 && (*version & 0xffff) == 0)
        return status_set(FATHOM_EUNSUPPORTED, "a big-endian GGUF file: convert it first");
    if (*version != 2 && *version != 3)
        return status_set(FATHOM_EUNSUPPORTED,
                          "the file is of GGUF version %u, and only 2 and 3 are supported",
                          *version);
    FATHOM_TRY(read_u64(reader, n_tensors));
    return read_u64(reader, n_records);
}

static fathom_status read_header(fathom_gguf *gguf)
{
    struct reader reader = {.gguf = gguf};
    uint64_t n_tensors = 0, n_records = 0;
    size_t alignment = 0;
    FATHOM_TRY(read_preamble(&reader, &n_tensors, &n_records));

    FATHOM_TRY(new_table(&reader, n_records, ENTRY_FILE_BYTES, sizeof *gguf->records,
                         "metadata entries", &gguf->records));
    FATHOM_TRY(new_table(&reader, n_records, ENTRY_FILE_BYTES, sizeof *gguf->sorted_keys,
                         "metadata keys", &gguf->sorted_keys));
    gguf->n_records = n_records;
    FATHOM_TRY(read_records(&reader));
    for (size_t i = 0; i < n_records; i++)
        gguf->sorted_keys[i] = &gguf->records[i].entry.key;
    FATHOM_TRY(sort_names(gguf->sorted_keys, n_records, "metadata key"));
    FATHOM_TRY(read_alignment(gguf, &alignment));

    FATHOM_TRY(new_table(&reader, n_tensors, TENSOR_FILE_BYTES, sizeof *gguf->tensors, "tensors",
                         &gguf->tensors));
    FATHOM_TRY(new_table(&reader, n_tensors, TENSOR_FILE_BYTES, sizeof *gguf->sorted_tensors,
                         "tensor names", &gguf->sorted_tensors));
    gguf->n_tensors = n_tensors;
    FATHOM_TRY(read_tensors(&reader, alignment));
    for (size_t i = 0; i < n_tensors; i++)
        gguf->sorted_tensors[i] = &gguf->tensors[i].name;
    return sort_names(gguf->sorted_tensors, n_tensors, "tensor");
}

static fathom_status refuse_file(int error)
{
    char text[128];
    return status_set(FATHOM_EIO, "%s", strerror_r(error, text, sizeof text));
}

static fathom_status map_file(fathom_gguf *gguf)
{
    fathom_status status = FATHOM_OK;
    struct stat info;
    // O_NONBLOCK: a named pipe must be refused, not waited for.
    int file = open(gguf->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) return refuse_file(errno);
    if (fstat(file, &info) != 0)
        status = refuse_file(errno);
    else if (S_ISDIR(info.st_mode))
        status = refuse_file(EISDIR);
    else if (!S_ISREG(info.st_mode))
        status = status_set(FATHOM_EIO, "not a regular file");
    else if (info.st_size == 0)
        status = status_set(FATHOM_EIO, "the file is empty");
    if (status == FATHOM_OK) {
        void *bytes = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, file, 0);
        if (bytes == MAP_FAILED) {
            status = refuse_file(errno);
        } else {
            gguf->bytes = bytes;
            gguf->file_bytes = (size_t)info.st_size;
        }
    }
    close(file);
    return status;
}

fathom_status fathom_gguf_open(const char *path, fathom_gguf **out)
{
    fathom_status status = FATHOM_OK;
    fathom_gguf *gguf = NULL;
    if (path == NULL || out == NULL) return status_set(FATHOM_EINVAL, "path and gguf: not NULL");
    FATHOM_TRY(mem_new(1, sizeof *gguf, "GGUF file", &gguf));
    FATHOM_CHECK(arena_string(&gguf->arena, path, strlen(path), &gguf->path), out);
    FATHOM_CHECK(map_file(gguf), out);
    FATHOM_CHECK(read_header(gguf), out);
    *out = gguf;
    return FATHOM_OK;
out:
    fathom_gguf_close(&gguf);
    return status_prefix(status, "%s", path);
}

void fathom_gguf_close(fathom_gguf **gguf)
{
    if (gguf == NULL || *gguf == NULL) return;
    // munmap takes the mapping as it gave it: not const.
    if ((*gguf)->bytes != NULL) munmap((void *)(uintptr_t)(*gguf)->bytes, (*gguf)->file_bytes);
    arena_fini(&(*gguf)->arena);
    mem_free(*gguf);
    *gguf = NULL;
}
