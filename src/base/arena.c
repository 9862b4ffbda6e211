// Arenas: many small blocks that die together, cut from chunks.
//
//     chunks -> [head | block | block | ...  free ] -> [head | ... ] -> NULL
//               newest, filled up to used_bytes        full
//
// A block too large to share a chunk gets one of its own, which goes behind the newest, so that the
// newest one's free rest is not lost.

#include "src/base/mem.h"

#include "src/base/status.h"

#include <assert.h>
#include <stdalign.h>
#include <string.h>

struct arena_chunk {
    struct arena_chunk *next;
    size_t data_bytes;
    alignas(MEM_ALIGN_BYTES) unsigned char data[];
};

enum {
    SHARED_BYTES_MAX = 16 * 1024, // larger blocks get their own chunk
};
static_assert(SHARED_BYTES_MAX <= ARENA_CHUNK_BYTES - sizeof(struct arena_chunk),
              "fits a fresh chunk");

static fathom_status add_chunk(struct arena *arena, size_t data_bytes, bool newest,
                               const char *what, struct arena_chunk **out)
{
    struct arena_chunk *chunk = NULL;
    size_t chunk_bytes = 0;
    if (!size_add(data_bytes, sizeof *chunk, &chunk_bytes))
        return status_set(FATHOM_ENOMEM, "%s: %zu bytes exceed the address space", what,
                          data_bytes);
    FATHOM_TRY(mem_new(chunk_bytes, 1, what, &chunk));
    chunk->data_bytes = data_bytes;
    arena->total_bytes += chunk_bytes;
    if (newest || arena->chunks == NULL) {
        chunk->next = arena->chunks;
        arena->chunks = chunk;
        arena->used_bytes = newest ? 0 : data_bytes;
    } else {
        chunk->next = arena->chunks->next;
        arena->chunks->next = chunk;
    }
    *out = chunk;
    return FATHOM_OK;
}

static fathom_status take_bytes(struct arena *arena, size_t bytes, size_t align_bytes,
                                const char *what, void **out)
{
    struct arena_chunk *chunk = arena->chunks;
    if (bytes > SHARED_BYTES_MAX) {
        FATHOM_TRY(add_chunk(arena, bytes, false, what, &chunk));
        *out = chunk->data;
        return FATHOM_OK;
    }
    size_t begin = size_round(arena->used_bytes, align_bytes);
    if (chunk == NULL || begin > chunk->data_bytes || bytes > chunk->data_bytes - begin) {
        FATHOM_TRY(add_chunk(arena, ARENA_CHUNK_BYTES - sizeof *chunk, true, what, &chunk));
        begin = 0;
    }
    arena->used_bytes = begin + bytes;
    *out = chunk->data + begin;
    return FATHOM_OK;
}

fathom_status arena_new(struct arena *arena, size_t count, size_t item_bytes, const char *what,
                        void *out)
{
    size_t bytes = 0;
    void *block = NULL;
    if (!size_mul(count, item_bytes, &bytes))
        return status_set(FATHOM_ENOMEM, "%s: %zu x %zu bytes exceed the address space", what,
                          count, item_bytes);
    FATHOM_TRY(take_bytes(arena, bytes, MEM_ALIGN_BYTES, what, &block));
    memcpy(out, &block, sizeof block); // `out` is a T **, see mem_new
    return FATHOM_OK;
}

fathom_status arena_string(struct arena *arena, const char *text, size_t bytes, char **out)
{
    size_t copy_bytes = 0;
    void *copy = NULL;
    if (!size_add(bytes, 1, &copy_bytes))
        return status_set(FATHOM_ENOMEM, "string: %zu bytes exceed the address space", bytes);
    FATHOM_TRY(take_bytes(arena, copy_bytes, 1, "string", &copy));
    if (bytes > 0) memcpy(copy, text, bytes);
    *out = copy;
    return FATHOM_OK;
}

void arena_fini(struct arena *arena)
{
    while (arena->chunks != NULL) {
        struct arena_chunk *chunk = arena->chunks;
        arena->chunks = chunk->next;
        mem_free(chunk);
    }
    arena->used_bytes = 0;
    arena->total_bytes = 0;
}
