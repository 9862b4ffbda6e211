// The rows of attention over runs: gathered into blocks, and fetched ahead.

#ifndef FATHOM_CPU_X86_ATTEND_RUNS_ROWS_H
#define FATHOM_CPU_X86_ATTEND_RUNS_ROWS_H

#include "cpu/x86/simd.h"

#include <assert.h>

#include "src/iface/kernels.h"

enum {
    BLOCK_KEYS = 32,
    TILE_ROWS = 64,
    ROWS = 4, // at most, that go together
    D_MAX = 256,
    LINE_BYTES = 64,
    AHEAD_BLOCKS = 4, // that are fetched and not worked on yet
    TURN_KEYS = 4,    // of the work, after which it is a block's turn to be fetched
    TURN_ROWS = 4,    // of K or V, that are fetched then
    N_TURNS = 2 * BLOCK_KEYS / TURN_ROWS,
};
static_assert(BLOCK_KEYS % (2 * VEC_LANES) == 0, "vectors fill a block");

// Rows of a block; those from n_keys on are zeros.
struct row_block {
    const uint8_t *k[BLOCK_KEYS], *v[BLOCK_KEYS];
    uint32_t n_keys;
};

// While a block is worked on, the one AHEAD_BLOCKS behind it is fetched to the second-level cache:
// rows of K and of V by turns, not neighbours, so that the hardware streams several places at once.
struct row_fetch {
    const struct row_block *block;
    uint32_t turn;
    uint32_t k_bytes, v_bytes; // of a row
};

// The next row.
struct row_cursor {
    const struct kv_run *run, *end;
    const struct kv_run *end_next; // of the call to come
    uint32_t row;
    uint32_t k_bytes, v_bytes;
};

static inline struct row_cursor row_cursor_open(const struct attend_runs_args *a)
{
    return (struct row_cursor){.run = a->runs,
                               .end = a->runs + a->n_runs,
                               .end_next = a->runs + a->n_runs + a->n_next,
                               .k_bytes = (uint32_t)kv_k_row_bytes(&a->format),
                               .v_bytes = (uint32_t)kv_v_row_bytes(&a->format)};
}

// No block has rows of this call and of the next one.
static void gather_rows(struct row_cursor *cursor, struct row_block *block)
{
    static const uint8_t zeros[D_MAX * sizeof(float)];
    struct row_cursor at = *cursor;
    uint32_t n = 0;
    if (at.run == at.end) at.end = at.end_next;
    while (n < BLOCK_KEYS && at.run < at.end) {
        uint32_t n_left = at.run->n_rows - at.row;
        uint32_t n_end = n_left < BLOCK_KEYS - n ? n + n_left : BLOCK_KEYS;
        const uint8_t *k = (const uint8_t *)at.run->k + (size_t)at.row * at.k_bytes;
        const uint8_t *v = (const uint8_t *)at.run->v + (size_t)at.row * at.v_bytes;
        at.row += n_end - n;
        for (; n < n_end; n++, k += at.k_bytes, v += at.v_bytes) {
            block->k[n] = k;
            block->v[n] = v;
        }
        if (at.row == at.run->n_rows) at.run++, at.row = 0;
    }
    block->n_keys = n;
    for (; n < BLOCK_KEYS; n++)
        block->k[n] = block->v[n] = zeros;
    *cursor = at;
}

SIMD_INLINE size_t plain_bytes(int32_t type)
{
    return type == FATHOM_TYPE_F32 ? 4 : 2;
}

// Begins to bring all lines of a row to the cache.
SIMD_INLINE void fetch_row(const uint8_t *row, uint32_t bytes)
{
    for (uint32_t at = 0; at < bytes; at += LINE_BYTES)
        _mm_prefetch(row + at, _MM_HINT_T1);
    _mm_prefetch(row + bytes - 1, _MM_HINT_T1);
}

SIMD_INLINE void fetch_turn(struct row_fetch *fetch)
{
    if (fetch->turn == N_TURNS) return;
    const uint32_t first = fetch->turn / 2;
    const bool values = fetch->turn++ % 2 != 0;
    for (uint32_t row = first; row < BLOCK_KEYS; row += BLOCK_KEYS / TURN_ROWS)
        if (values)
            fetch_row(fetch->block->v[row], fetch->v_bytes);
        else
            fetch_row(fetch->block->k[row], fetch->k_bytes);
}

#endif
