// Scores of representatives and rows, for whichever instruction set includes it. Integer sums come
// from score_madd.h or score_dot.h, which the including file chooses.
//
// A lane is a representative or a row, so nothing is summed across lanes: representatives are
// stored that way, rows are turned, 16 bytes of VEC_LANES rows at a time, before all heads meet
// them. A value is made by the same operations whatever is scored along with it.

#ifndef FATHOM_CPU_X86_SCORE_BODY_H
#define FATHOM_CPU_X86_SCORE_BODY_H

#include <assert.h>

#include "src/iface/kernels.h"

enum {
    REP_HEADS = 4, // at most, that meet representatives at once
    LINE_BYTES = 64,
};

// ---- Representatives ----------------------------------------------------------------------------

static void pack_rep_query(bool q8, const float *q, uint32_t group, uint32_t d, void *packed,
                           float *slack)
{
    struct score_query *query = packed;
    for (uint32_t g = 0; g < group; g++, q += d) {
        if (q8) {
            slack[g] = pack_rep_head(REP_WIDE, q, d, query + g);
            continue;
        }
        // As it is. A sum of d products one after another errs by d u of the sum of their sizes.
        double sum = 0;
        for (uint32_t c = 0; c < d; c++)
            sum += (double)q[c] * q[c];
        slack[g] = (float)((d + 2) * (double)QUERY_U * sqrt(sum));
        memcpy((float *)packed + g * d, q, d * sizeof *q);
    }
}

SIMD_INLINE void score_codes(int n_heads, int n_vecs, const struct score_reps_args *args,
                             uint32_t g, const char *block, float *out)
{
    const struct score_query *query = (const struct score_query *)args->q + g;
    size_t block_bytes = rep_block_bytes(true, args->d);
    ivec sums[REP_HEADS * TILE_BLOCKS * REP_VECS];
#pragma GCC unroll 8
    for (int i = 0; i < n_heads * n_vecs; i++)
        sums[i] = int_fill(query[i / n_vecs].zero);
    sum_rep_codes(n_heads, n_vecs, query, (const uint8_t *)block + REP_LANES * sizeof(float),
                  block_bytes, args->d, sums);
#pragma GCC unroll 8
    for (int i = 0; i < n_heads * n_vecs; i++) {
        int head = i / n_vecs, v = i % n_vecs;
        const char *steps = block + v / REP_VECS * block_bytes;
        vec step = vec_mul(vec_load((const float *)steps + v % REP_VECS * VEC_LANES),
                           vec_set1(query[head].step));
        vec_store(out + head * args->out_stride + v * VEC_LANES,
                  vec_mul(int_to_vec(sums[i]), step));
    }
}

SIMD_INLINE void score_halves(int n_heads, int n_vecs, const struct score_reps_args *args,
                              uint32_t g, const char *block, float *out)
{
    const float *q = (const float *)args->q + g * args->d;
    size_t block_bytes = rep_block_bytes(false, args->d);
    vec sums[REP_HEADS * TILE_BLOCKS * REP_VECS];
#pragma GCC unroll 8
    for (int i = 0; i < n_heads * n_vecs; i++)
        sums[i] = vec_zero();
    for (uint32_t c = 0; c < args->d; c++) {
        vec values[TILE_BLOCKS * REP_VECS];
#pragma GCC unroll 2
        for (int v = 0; v < n_vecs; v++)
            values[v] =
                vec_load_type(FATHOM_TYPE_F16, block + v / REP_VECS * block_bytes +
                                                   (c * REP_LANES + v % REP_VECS * VEC_LANES) * 2);
#pragma GCC unroll 8
        for (int i = 0; i < n_heads * n_vecs; i++)
            sums[i] = vec_fma(vec_set1(q[i / n_vecs * args->d + c]), values[i % n_vecs], sums[i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < n_heads * n_vecs; i++)
        vec_store(out + i / n_vecs * args->out_stride + i % n_vecs * VEC_LANES, sums[i]);
}

// All heads of the group against one or TILE_BLOCKS blocks.
SIMD_INLINE void score_blocks(bool q8, int n_blocks, const struct score_reps_args *args,
                              const char *block, float *out)
{
    const int n_vecs = n_blocks * REP_VECS;
    uint32_t g = 0;
    for (; g + 4 <= args->group; g += 4)
        if (q8)
            score_codes(4, n_vecs, args, g, block, out + g * args->out_stride);
        else
            score_halves(4, n_vecs, args, g, block, out + g * args->out_stride);
    for (; g < args->group; g++)
        if (q8)
            score_codes(1, n_vecs, args, g, block, out + g * args->out_stride);
        else
            score_halves(1, n_vecs, args, g, block, out + g * args->out_stride);
}

static void score_reps(const struct score_reps_args *args)
{
    size_t block_bytes = rep_block_bytes(args->q8, args->d);
    float *out = args->out;
    assert(args->begin % REP_LANES == 0 && args->end % REP_LANES == 0);
    for (uint32_t b = args->begin / REP_LANES, end = args->end / REP_LANES, n; b < end; b += n) {
        const char *block = (const char *)args->blocks + b * block_bytes;
        n = end - b >= TILE_BLOCKS ? TILE_BLOCKS : 1;
        if (args->q8 && n == TILE_BLOCKS)
            score_blocks(true, TILE_BLOCKS, args, block, out);
        else if (args->q8)
            score_blocks(true, 1, args, block, out);
        else if (n == TILE_BLOCKS)
            score_blocks(false, TILE_BLOCKS, args, block, out);
        else
            score_blocks(false, 1, args, block, out);
        out += n * REP_LANES;
    }
}

// ---- Rows of codes ------------------------------------------------------------------------------

static void pack_row_query(uint32_t bits, const float *q, uint32_t group, uint32_t d,
                           const float *k_min, const float *k_step, void *packed, float *slack)
{
    struct score_query *query = packed;
    for (uint32_t g = 0; g < group; g++)
        slack[g] = pack_row_head(bits, q + g * d, d, k_min, k_step, query + g);
}

// VEC_LANES rows against n_heads heads from g on; the first n scores are stored.
SIMD_INLINE void score_row_tile(int bits, int n_heads, const struct score_rows_args *args,
                                uint32_t g, const uint8_t *const *tile, uint32_t n, float *out)
{
    const struct score_query *query = (const struct score_query *)args->q + g;
    size_t row_bytes = kv_code_bytes((uint32_t)bits, args->d);
    ivec sums[ROW_HEADS];
#pragma GCC unroll 8
    for (int head = 0; head < n_heads; head++)
        sums[head] = int_fill(0);
    for (size_t at = 0; at < row_bytes; at += KV_PIECE_BYTES) {
        ivec words[4];
        int_turn_rows(tile, at, words);
        sum_piece(bits, n_heads, words, query->codes.narrow + at * (8 / bits), sizeof *query, sums);
    }
#pragma GCC unroll 8
    for (int head = 0; head < n_heads; head++)
        vec_store_n(
            out + (g + head) * args->out_stride,
            vec_fma(int_to_vec(sums[head]), vec_set1(query[head].step), vec_set1(query[head].base)),
            n);
}

SIMD_INLINE void score_row_heads(int bits, const struct score_rows_args *args,
                                 const uint8_t *const *tile, uint32_t n, float *out)
{
    uint32_t g = 0;
    for (; ROW_HEADS >= 8 && g + 8 <= args->group; g += 8)
        score_row_tile(bits, ROW_HEADS, args, g, tile, n, out);
    for (; g + 4 <= args->group; g += 4)
        score_row_tile(bits, 4, args, g, tile, n, out);
    for (; g < args->group; g++)
        score_row_tile(bits, 1, args, g, tile, n, out);
}

// Rows j .. j + VEC_LANES - 1 of the call to come.
SIMD_INLINE void fetch_rows(const struct score_rows_args *args, uint32_t j, size_t row_bytes)
{
    const uint32_t end = j + VEC_LANES < args->n_next ? j + VEC_LANES : args->n_next;
    for (; j < end; j++)
        for (size_t at = 0; at < row_bytes; at += LINE_BYTES)
            _mm_prefetch((const char *)args->next[j] + at, _MM_HINT_T1);
}

// Rows left over go with some that are done already, which come out the same; fewer than the lanes
// with the last one, again and again.
SIMD_INLINE void score_row_codes(int bits, const struct score_rows_args *args)
{
    uint32_t n = args->n_rows, last = n - VEC_LANES;
    const size_t row_bytes = kv_code_bytes((uint32_t)bits, args->d);
    const uint8_t *few[VEC_LANES];
    uint32_t fetched = 0;
    if (n >= VEC_LANES) {
        for (uint32_t j = 0; j < last; j += VEC_LANES, fetched = j) {
            fetch_rows(args, j, row_bytes);
            score_row_heads(bits, args, args->rows + j, VEC_LANES, args->out + j);
        }
        score_row_heads(bits, args, args->rows + last, VEC_LANES, args->out + last);
    } else if (n > 0) {
        for (uint32_t j = 0; j < VEC_LANES; j++)
            few[j] = args->rows[j < n ? j : n - 1];
        score_row_heads(bits, args, few, n, args->out);
    }
    for (; fetched < args->n_next; fetched += VEC_LANES)
        fetch_rows(args, fetched, row_bytes);
}

static void score_rows(const struct score_rows_args *args)
{
    if (args->bits == 4)
        score_row_codes(4, args);
    else
        score_row_codes(8, args);
}

SIMD_INLINE void fill_score_entries(struct kernel_table *table)
{
    table->kv.pack_rep_query = pack_rep_query;
    table->kv.score_reps = score_reps;
    table->kv.pack_row_query = pack_row_query;
    table->kv.score_rows = score_rows;
}

#endif
