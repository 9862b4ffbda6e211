// The rows of attention over runs: gathered into blocks, fetched ahead, codes widened to f32.

#ifndef FATHOM_CPU_X86_ATTEND_RUNS_ROWS_H
#define FATHOM_CPU_X86_ATTEND_RUNS_ROWS_H

#include "cpu/x86/kv_lanes.h"

#include <assert.h>

#include "src/iface/kernels.h"

enum {
    BLOCK_KEYS = 32,
    TILE_ROWS = 64,
    ROWS = 4, // at most, that go together
    D_MAX = 256,
    LINE_BYTES = 64,
    AHEAD_BLOCKS = 4,         // gathered, and fetched, together
    N_TURNS = 2 * BLOCK_KEYS, // of fetching them: a row of K of each block, then one of V
    TURN_KEYS = 4,            // of the work, for a turn
};
static_assert(BLOCK_KEYS % (2 * VEC_LANES) == 0, "vectors fill a block");

// Rows of a block; those from n_keys on are zeros.
struct row_block {
    const char *k[BLOCK_KEYS], *v[BLOCK_KEYS];
    uint32_t n_keys;
};

// The blocks that come next are fetched to the second-level cache while others are worked on: a row
// of each by turns, so that the hardware streams several places at once.
struct row_fetch {
    const struct row_block *blocks; // AHEAD_BLOCKS
    uint32_t turn;
    uint32_t k_bytes, v_bytes; // of a row
};

// A block's rows in f32, where they are codes.
struct wide_rows {
    float k[D_MAX][BLOCK_KEYS];
    float v[BLOCK_KEYS * D_MAX]; // [key], v_stride apart
};

// The next row.
struct row_cursor {
    const struct kv_run *run, *end;
    uint32_t row;
    uint32_t k_bytes, v_bytes;
};

static inline struct row_cursor row_cursor_open(const struct attend_runs_args *a)
{
    return (struct row_cursor){.run = a->runs,
                               .end = a->runs + a->n_runs,
                               .k_bytes = (uint32_t)kv_k_row_bytes(&a->format),
                               .v_bytes = (uint32_t)kv_v_row_bytes(&a->format)};
}

static void gather_rows(struct row_cursor *cursor, struct row_block *block)
{
    static const char zeros[D_MAX * sizeof(float)];
    struct row_cursor at = *cursor;
    uint32_t n = 0;
    while (n < BLOCK_KEYS && at.run < at.end) {
        uint32_t n_left = at.run->n_rows - at.row;
        uint32_t n_end = n_left < BLOCK_KEYS - n ? n + n_left : BLOCK_KEYS;
        const char *k = (const char *)at.run->k + (size_t)at.row * at.k_bytes;
        const char *v = (const char *)at.run->v + (size_t)at.row * at.v_bytes;
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

// The next AHEAD_BLOCKS blocks; those that are lacking have no keys.
static void gather_blocks(struct row_cursor *cursor, struct row_block *blocks)
{
    for (uint32_t b = 0; b < AHEAD_BLOCKS; b++)
        gather_rows(cursor, &blocks[b]);
}

SIMD_INLINE size_t plain_bytes(int32_t type)
{
    return type == FATHOM_TYPE_F32 ? 4 : 2;
}

// Begins to bring all lines of a row to the cache.
SIMD_INLINE void fetch_row(const char *row, uint32_t bytes)
{
    for (uint32_t at = 0; at < bytes; at += LINE_BYTES)
        _mm_prefetch(row + at, _MM_HINT_T1);
    _mm_prefetch(row + bytes - 1, _MM_HINT_T1);
}

// Gathers the next blocks, to be fetched from now on.
static void row_fetch_open(struct row_fetch *fetch, struct row_cursor *cursor,
                           struct row_block *blocks)
{
    gather_blocks(cursor, blocks);
    fetch->blocks = blocks;
    fetch->turn = blocks[0].n_keys > 0 ? 0 : N_TURNS;
}

SIMD_INLINE void fetch_turn(struct row_fetch *fetch)
{
    if (fetch->turn == N_TURNS) return;
    const uint32_t i = fetch->turn / 2;
    const bool values = fetch->turn++ % 2 != 0;
    for (uint32_t b = 0; b < AHEAD_BLOCKS; b++) {
        const struct row_block *block = &fetch->blocks[b];
        fetch_row(values ? block->v[i] : block->k[i], values ? fetch->v_bytes : fetch->k_bytes);
    }
}

// Codes only: step and min are in the query.
SIMD_INLINE void decode_keys(uint32_t bits, const struct row_block *block, struct row_fetch *fetch,
                             uint32_t d, struct wide_rows *wide)
{
    const uint32_t channels = 128 / bits, slot_channels = KV_PIECE_BYTES;
    for (uint32_t key = 0; key < BLOCK_KEYS; key += VEC_LANES) {
        for (uint32_t turn = 0; turn < VEC_LANES; turn += TURN_KEYS)
            fetch_turn(fetch);
        for (uint32_t piece = 0; piece < d; piece += channels) {
            lanes words[4];
            lanes_turn(block->k + key, piece / channels * KV_PIECE_BYTES, words);
            for (uint32_t slot = 0; slot < 8 / bits; slot++)
#pragma GCC unroll 16
                for (uint32_t byte = 0; byte < KV_PIECE_BYTES; byte++)
                    vec_store(wide->k[piece + slot * slot_channels + byte] + key,
                              code_number(bits, words[byte / 4], byte % 4 * 8 + slot * bits));
        }
    }
}

// Step and min of a group.
SIMD_INLINE void load_scale(const char *halves, float scale[2])
{
    _mm_storel_pi((void *)scale, _mm_cvtph_ps(_mm_loadu_si32(halves)));
}

// One group of channels of all rows of V, into v + group * KV_GROUP.
SIMD_INLINE void decode_group(uint32_t bits, const struct row_block *block, uint32_t group,
                              uint32_t n_pieces, size_t head_bytes, size_t v_stride,
                              struct wide_rows *wide)
{
    float scales[BLOCK_KEYS][2];
    for (uint32_t key = 0; key < BLOCK_KEYS; key++)
        load_scale(block->v[key] + group * sizeof(uint16_t[2]), scales[key]);
    const size_t first_piece = group * (KV_GROUP / (128 / bits));
    for (uint32_t key = 0; key < BLOCK_KEYS; key++) {
        struct code_map map =
            code_map_make(bits, vec_set1(scales[key][0]), vec_set1(scales[key][1]));
        const char *codes = block->v[key] + head_bytes + first_piece * KV_PIECE_BYTES;
        float *v = wide->v + key * v_stride + group * KV_GROUP;
        for (uint32_t piece = 0; piece < n_pieces; piece++)
#pragma GCC unroll 2
            for (uint32_t i = 0; i < KV_PIECE_BYTES; i += VEC_LANES) {
                lanes bytes = lanes_bytes(codes + piece * KV_PIECE_BYTES + i);
                for (uint32_t slot = 0; slot < 8 / bits; slot++)
                    vec_store(v + (piece * (8 / bits) + slot) * KV_PIECE_BYTES + i,
                              code_value(bits, bytes, slot * bits, map));
            }
    }
}

SIMD_INLINE void decode_values(uint32_t bits, const struct row_block *block, uint32_t d,
                               struct wide_rows *wide, const char **rows)
{
    const uint32_t channels = 128 / bits, group_pieces = KV_GROUP / channels;
    const uint32_t n_groups = (d + KV_GROUP - 1) / KV_GROUP;
    const size_t v_stride = n_groups * KV_GROUP;
    uint32_t left = (d + channels - 1) / channels;
    for (uint32_t group = 0; group < n_groups; group++, left -= group_pieces) {
        uint32_t n_pieces = left < group_pieces ? left : group_pieces;
        decode_group(bits, block, group, n_pieces, n_groups * 2 * sizeof(uint16_t), v_stride, wide);
    }
    for (uint32_t key = 0; key < BLOCK_KEYS; key++)
        rows[key] = (const char *)(wide->v + key * v_stride);
}

#endif
