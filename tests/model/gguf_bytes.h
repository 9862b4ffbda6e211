// Makes GGUF files byte by byte, good and bad ones, and opens them from memory.

#ifndef FATHOM_TESTS_MODEL_GGUF_BYTES_H
#define FATHOM_TESTS_MODEL_GGUF_BYTES_H

#include "fathom/gguf.h"

#include "tests/check.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct bytes {
    uint8_t data[1 << 20];
    size_t n;
};

static inline void put(struct bytes *bytes, const void *data, size_t n)
{
    assert_true(n <= sizeof bytes->data - bytes->n);
    if (n > 0) memcpy(bytes->data + bytes->n, data, n);
    bytes->n += n;
}

static inline void put_u8(struct bytes *bytes, uint8_t value)
{
    put(bytes, &value, sizeof value);
}

static inline void put_u32(struct bytes *bytes, uint32_t value)
{
    put(bytes, &value, sizeof value);
}

static inline void put_u64(struct bytes *bytes, uint64_t value)
{
    put(bytes, &value, sizeof value);
}

static inline void put_string(struct bytes *bytes, const char *text)
{
    put_u64(bytes, strlen(text));
    put(bytes, text, strlen(text));
}

// Starts a file.
static inline void put_head(struct bytes *bytes, uint64_t n_tensors, uint64_t n_entries)
{
    bytes->n = 0;
    put(bytes, "GGUF", 4);
    put_u32(bytes, 3);
    put_u64(bytes, n_tensors);
    put_u64(bytes, n_entries);
}

static inline void put_key(struct bytes *bytes, const char *key, uint32_t type)
{
    put_string(bytes, key);
    put_u32(bytes, type);
}

static inline void put_key_u32(struct bytes *bytes, const char *key, uint32_t value)
{
    put_key(bytes, key, FATHOM_GGUF_UINT32);
    put_u32(bytes, value);
}

static inline void put_key_string(struct bytes *bytes, const char *key, const char *value)
{
    put_key(bytes, key, FATHOM_GGUF_STRING);
    put_string(bytes, value);
}

static inline void put_key_array(struct bytes *bytes, const char *key, uint32_t item_type,
                                 uint64_t n_items)
{
    put_key(bytes, key, FATHOM_GGUF_ARRAY);
    put_u32(bytes, item_type);
    put_u64(bytes, n_items);
}

// A line of the tensor table.
static inline void put_tensor(struct bytes *bytes, const char *name, uint32_t type, uint32_t n_dims,
                              const uint64_t *dims, uint64_t offset)
{
    put_string(bytes, name);
    put_u32(bytes, n_dims);
    for (uint32_t i = 0; i < n_dims; i++)
        put_u64(bytes, dims[i]);
    put_u32(bytes, type);
    put_u64(bytes, offset);
}

// Zeros up to a multiple of `alignment` and then n_data more.
static inline void put_data(struct bytes *bytes, size_t alignment, size_t n_data)
{
    while (bytes->n % alignment != 0)
        put_u8(bytes, 0);
    for (size_t i = 0; i < n_data; i++)
        put_u8(bytes, (uint8_t)i);
}

// Opens what has been made as a file.
static inline fathom_status open_bytes(const struct bytes *bytes, fathom_gguf **gguf)
{
    char path[64];
    int file = memfd_create("gguf", MFD_CLOEXEC);
    assert_true(file >= 0);
    assert_int_equal(write(file, bytes->data, bytes->n), (ssize_t)bytes->n);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    fathom_status status = fathom_gguf_open(path, gguf);
    close(file);
    return status;
}

// The file must be refused with this status and a text that contains `words`.
static inline void check_refused(const struct bytes *bytes, fathom_status wanted, const char *words)
{
    fathom_gguf *gguf = NULL;
    fathom_status status = open_bytes(bytes, &gguf);
    fathom_gguf_close(&gguf);
    if (status != wanted || strstr(fathom_last_error(), words) == NULL)
        fail_msg("status %d, text '%s': wanted %d and '%s'", status, fathom_last_error(), wanted,
                 words);
}

// The entry of this key, which must be there.
static inline const struct fathom_gguf_entry *find(const fathom_gguf *gguf, const char *key)
{
    const struct fathom_gguf_entry *entry = fathom_gguf_find(gguf, key);
    if (entry == NULL) fail_msg("no entry %s", key);
    return entry;
}

static inline void check_string(const fathom_gguf *gguf, const char *key, uint64_t index,
                                const char *text)
{
    struct fathom_gguf_string string = {0};
    check_ok(fathom_gguf_as_string(gguf, find(gguf, key), index, &string));
    assert_int_equal(string.bytes, strlen(text));
    assert_memory_equal(string.text, text, string.bytes);
}

#endif
