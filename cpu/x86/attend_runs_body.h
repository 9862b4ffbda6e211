// Attention over runs of sealed rows, for whichever instruction set includes it.
//
// Online softmax as in attend_body.h, but the rows of K and V lie in many short runs and may be
// packed in codes (attend_runs_codes.h). So BLOCK_KEYS rows are gathered at a time, from as many
// runs as it takes, and are read in place. Meanwhile the rows of the blocks to come are fetched,
// since the hardware cannot guess where they are.
//
// Deterministic: blocks are counted from the first row of the first run, whatever the runs are, and
// the arithmetic of a query row does not depend on which rows it goes with.

#ifndef FATHOM_CPU_X86_ATTEND_RUNS_BODY_H
#define FATHOM_CPU_X86_ATTEND_RUNS_BODY_H

#include "cpu/x86/attend_runs_codes.h"

#include <float.h>
#include <math.h>

static const float BASE_SLACK = 4; // exp(4): far from overflow, and few roundings of s - base

// sums[row * n_keys + key] += q[row][c ...] * k[key][c ...] by lanes, of n columns.
SIMD_INLINE void dot_columns(int32_t type, int n_rows, const struct runs_step *s, uint32_t key,
                             uint32_t c, size_t n, vec *sums)
{
    const int n_keys = VEC_LANES / n_rows;
    vec keys[VEC_LANES];
#pragma GCC unroll 16
    for (int i = 0; i < n_keys; i++)
        keys[i] = vec_load_type_n(type, s->block->k[key + (uint32_t)i] + c * plain_bytes(type), n);
#pragma GCC unroll 4
    for (int row = 0; row < n_rows; row++) {
        vec q = vec_hold(vec_load(s->tile->q[s->first + (uint32_t)row] + c));
#pragma GCC unroll 16
        for (int i = 0; i < n_keys; i++)
            sums[row * n_keys + i] = vec_fma(q, keys[i], sums[row * n_keys + i]);
    }
}

// Scores of keys key .. key + VEC_LANES / n_rows - 1 of the block, which fill a vector.
SIMD_INLINE void score_plain_keys(int32_t type, int n_rows, const struct runs_step *s, uint32_t key)
{
    const int n_keys = VEC_LANES / n_rows;
    const uint32_t d = s->args->format.d_k, d_whole = d - d % VEC_LANES;
    vec sums[VEC_LANES];
    float scores[VEC_LANES];
#pragma GCC unroll 16
    for (int i = 0; i < VEC_LANES; i++)
        sums[i] = vec_zero();
    for (uint32_t c = 0; c < d_whole; c += VEC_LANES)
        dot_columns(type, n_rows, s, key, c, VEC_LANES, sums);
    if (d_whole < d) dot_columns(type, n_rows, s, key, d_whole, d - d_whole, sums);
    vec_store(scores, vec_sums(sums));
#pragma GCC unroll 4
    for (int row = 0; row < n_rows; row++)
        __builtin_memcpy(s->tile->weights[row] + key, scores + row * n_keys,
                         (size_t)n_keys * sizeof *scores);
}

// weights = scores of the block's keys.
SIMD_INLINE void score_plain(int32_t type, int n_rows, const struct runs_step *s)
{
    const uint32_t n_keys = VEC_LANES / (uint32_t)n_rows;
    for (uint32_t key = 0; key < s->block->n_keys; key += n_keys) {
        for (uint32_t i = 0; i < n_keys; i++)
            if ((key + i) % TURN_KEYS == 0) fetch_turn(s->fetch);
        score_plain_keys(type, n_rows, s, key);
    }
}

// Makes the greatest score of the block the base of a row.
static void raise_base(struct runs_tile *tile, uint32_t row, const float *scores, uint32_t d_v)
{
    vec max = vec_set1(-INFINITY);
    for (uint32_t key = 0; key < BLOCK_KEYS; key += VEC_LANES)
        max = vec_max(vec_load(scores + key), max); // leaves NaN out
    float base = vec_hmax(max);
    vec factor = vec_exp(vec_set1(tile->base[row] - base));
    for (uint32_t c = 0; c < d_v; c += VEC_LANES)
        vec_store(tile->o[row] + c, vec_mul(factor, vec_load(tile->o[row] + c)));
    tile->sum[row] = vec_mul(factor, tile->sum[row]);
    tile->base[row] = base;
}

// Turns scores into weights relative to the base of their row. While the base stays, which the
// processor guesses rightly, weights need not wait for the maximum of the block. NaN goes on as a
// weight; it never becomes the base.
SIMD_INLINE void weigh_block(int n_rows, const struct runs_step *s)
{
#pragma GCC unroll 4
    for (int row = 0; row < n_rows; row++) {
        struct runs_tile *tile = s->tile;
        const uint32_t at = s->first + (uint32_t)row;
        float *scores = tile->weights[row];
        for (uint32_t key = s->block->n_keys; key < BLOCK_KEYS; key++)
            scores[key] = -INFINITY;
        vec max = vec_set1(-INFINITY);
#pragma GCC unroll 4
        for (uint32_t key = 0; key < BLOCK_KEYS; key += VEC_LANES)
            max = vec_max(vec_load(scores + key), max);
        if (vec_any_above(max, vec_set1(tile->base[at] + BASE_SLACK)))
            raise_base(tile, at, scores, s->args->format.d_v);
        vec base = vec_set1(tile->base[at]), sum = tile->sum[at];
#pragma GCC unroll 4
        for (uint32_t key = 0; key < BLOCK_KEYS; key += VEC_LANES) {
            vec weights = vec_exp(vec_sub(vec_load(scores + key), base));
            vec_store(scores + key, weights);
            sum = vec_add(sum, weights);
        }
        tile->sum[at] = sum;
    }
}

// o[row][c ...] += sum_j weight[row, j] * v[j][c ...], for n_vecs vectors of columns, the last with
// n values. The block is summed up first and then added: its rounding errors do not grow with the
// number of keys.
SIMD_INLINE void blend_columns(int32_t type, int n_rows, int n_vecs, const struct runs_step *s,
                               uint32_t c, size_t n)
{
    const size_t step_bytes = VEC_LANES * plain_bytes(type);
    struct runs_tile *tile = s->tile;
    vec sums[ROWS][4];
#pragma GCC unroll 4
    for (int row = 0; row < n_rows; row++)
#pragma GCC unroll 4
        for (int i = 0; i < n_vecs; i++)
            sums[row][i] = vec_zero();
    for (uint32_t key = 0; key < s->block->n_keys; key++) {
        if (key % TURN_KEYS == 0) fetch_turn(s->fetch);
        const uint8_t *v = s->block->v[key] + c * plain_bytes(type);
        vec values[4];
#pragma GCC unroll 4
        for (int i = 0; i < n_vecs; i++)
            values[i] = vec_load_type_n(type, v + i * step_bytes, i < n_vecs - 1 ? VEC_LANES : n);
        add_weighted(n_rows, n_vecs, tile->weights, key, values, sums);
    }
#pragma GCC unroll 4
    for (int row = 0; row < n_rows; row++)
#pragma GCC unroll 4
        for (int i = 0; i < n_vecs; i++) {
            float *o = tile->o[s->first + (uint32_t)row] + c + i * VEC_LANES;
            vec_store(o, vec_add(vec_load(o), sums[row][i]));
        }
}

SIMD_INLINE void blend_plain(int32_t type, int n_rows, const struct runs_step *s)
{
    const uint32_t d = s->args->format.d_v;
    uint32_t c = 0;
    for (; c + BLEND_VECS * VEC_LANES <= d; c += BLEND_VECS * VEC_LANES)
        blend_columns(type, n_rows, BLEND_VECS, s, c, VEC_LANES);
    for (; c + 2 * VEC_LANES <= d; c += 2 * VEC_LANES)
        blend_columns(type, n_rows, 2, s, c, VEC_LANES);
    for (; c + VEC_LANES <= d; c += VEC_LANES)
        blend_columns(type, n_rows, 1, s, c, VEC_LANES);
    if (c < d) blend_columns(type, n_rows, 1, s, c, d - c);
}

SIMD_INLINE void attend_rows(int bits, int32_t type, int n_rows, const struct runs_step *s)
{
    if (bits == 0) {
        score_plain(type, n_rows, s);
        weigh_block(n_rows, s);
        blend_plain(type, n_rows, s);
    } else {
        score_codes(bits, n_rows, s);
        weigh_block(n_rows, s);
        blend_codes(bits, n_rows, s);
    }
}

// What to do with a block, by how its rows are stored, for 1, 2 and 4 query rows. Each is a
// function of its own: in one large function their sums would not stay in registers.
struct runs_kind {
    void (*attend[3])(const struct runs_step *s);
};

#define RUNS_KIND(NAME, BITS, TYPE)                                                                \
    static void attend_##NAME##_1(const struct runs_step *s)                                       \
    {                                                                                              \
        attend_rows(BITS, TYPE, 1, s);                                                             \
    }                                                                                              \
    static void attend_##NAME##_2(const struct runs_step *s)                                       \
    {                                                                                              \
        attend_rows(BITS, TYPE, 2, s);                                                             \
    }                                                                                              \
    static void attend_##NAME##_4(const struct runs_step *s)                                       \
    {                                                                                              \
        attend_rows(BITS, TYPE, 4, s);                                                             \
    }                                                                                              \
    static const struct runs_kind kind_##NAME = {                                                  \
        {attend_##NAME##_1, attend_##NAME##_2, attend_##NAME##_4}};
RUNS_KIND(f32, 0, FATHOM_TYPE_F32)
RUNS_KIND(f16, 0, FATHOM_TYPE_F16)
RUNS_KIND(bf16, 0, FATHOM_TYPE_BF16)
RUNS_KIND(q8, 8, 0)
RUNS_KIND(q4, 4, 0)
RUNS_KIND(q2, 2, 0)

static const struct runs_kind *runs_kind_of(const struct kv_format *f)
{
    static const struct runs_kind *const plain[] = {[FATHOM_TYPE_F32] = &kind_f32,
                                                    [FATHOM_TYPE_F16] = &kind_f16,
                                                    [FATHOM_TYPE_BF16] = &kind_bf16};
    static const struct runs_kind *const codes[] = {[8] = &kind_q8, [4] = &kind_q4, [2] = &kind_q2};
    return f->bits == 0 ? plain[f->type] : codes[f->bits];
}

// All rows of the tile over one block.
static void attend_block(const struct runs_kind *kind, struct runs_step *s, uint32_t n_rows)
{
    for (s->first = 0; s->first < n_rows;) {
        const uint32_t left = n_rows - s->first, log = left >= 4 ? 2 : left >= 2 ? 1 : 0;
        kind->attend[log](s);
        s->first += 1u << log;
    }
}

// The query of a row, ready for K as it is stored, and the partial that there is already.
static void open_row(const struct attend_runs_args *a, struct runs_tile *tile, uint32_t row,
                     const float *q, const float *o, float lse)
{
    const uint32_t d_k = a->format.d_k, d_v = a->format.d_v;
    vec scale = vec_set1(a->scale);
    for (uint32_t c = 0; c < d_k; c += VEC_LANES)
        vec_store(tile->q[row] + c, vec_mul(scale, vec_load_n(q + c, d_k - c)));
    if (a->format.bits != 0) open_codes(a, tile, row);
    bool empty = !a->accumulate || lse == -INFINITY;
    tile->base[row] = empty ? -FLT_MAX : lse;
    tile->sum[row] = empty ? vec_zero() : vec_set1(1.0f / VEC_LANES);
    for (uint32_t c = 0; c < d_v; c += VEC_LANES)
        vec_store(tile->o[row] + c, empty ? vec_zero() : vec_load_n(o + c, d_v - c));
}

static void close_row(const struct attend_runs_args *a, const struct runs_tile *tile, uint32_t row,
                      float *o, float *lse)
{
    float sum = vec_hsum(tile->sum[row]);
    vec divisor = vec_set1(sum == 0 ? 1 : sum);
    for (uint32_t c = 0; c < a->format.d_v; c += VEC_LANES)
        vec_store_n(o + c, vec_div(vec_load(tile->o[row] + c), divisor), a->format.d_v - c);
    *lse = sum == 0 ? -INFINITY : (float)(tile->base[row] + log(sum));
}

// Query rows first .. first + n_rows - 1 of all tokens over all runs, which fill n_blocks.
static void attend_tile(const struct attend_runs_args *a, uint32_t first, uint32_t n_rows,
                        size_t n_blocks)
{
    const struct runs_kind *kind = runs_kind_of(&a->format);
    struct runs_tile *tile = a->scratch;
    for (uint32_t i = 0; i < n_rows; i++) {
        uint32_t token = (first + i) / a->group, head = (first + i) % a->group;
        open_row(a, tile, i, a->q + token * a->q_stride + head * a->format.d_k,
                 a->o + token * a->o_stride + head * a->format.d_v,
                 a->accumulate ? a->lse[token * a->lse_stride + head] : 0);
    }
    struct row_block blocks[AHEAD_BLOCKS + 1]; // the one that is worked on, and those fetched
    struct row_cursor cursor = row_cursor_open(a);
    for (uint32_t i = 0; i < AHEAD_BLOCKS; i++)
        gather_rows(&cursor, &blocks[i]);
    for (size_t i = 0; i < n_blocks; i++) {
        struct row_block *ahead = &blocks[(i + AHEAD_BLOCKS) % (AHEAD_BLOCKS + 1)];
        gather_rows(&cursor, ahead);
        struct row_fetch fetch = {
            .block = ahead, .k_bytes = cursor.k_bytes, .v_bytes = cursor.v_bytes};
        if (ahead->n_keys == 0) fetch.turn = N_TURNS;
        struct runs_step s = {
            .args = a, .tile = tile, .block = &blocks[i % (AHEAD_BLOCKS + 1)], .fetch = &fetch};
        attend_block(kind, &s, n_rows);
    }
    for (uint32_t i = 0; i < n_rows; i++) {
        uint32_t token = (first + i) / a->group, head = (first + i) % a->group;
        close_row(a, tile, i, a->o + token * a->o_stride + head * a->format.d_v,
                  a->lse + token * a->lse_stride + head);
    }
}

static void attend_runs(const struct attend_runs_args *a)
{
    size_t n_keys = 0;
    for (uint32_t r = 0; r < a->n_runs; r++)
        n_keys += a->runs[r].n_rows;
    if (n_keys == 0 && a->accumulate) return; // the partial stays, bit by bit
    const uint32_t n_rows = a->n_tokens * a->group;
    for (uint32_t row = 0; row < n_rows; row += TILE_ROWS)
        attend_tile(a, row, n_rows - row < TILE_ROWS ? n_rows - row : TILE_ROWS,
                    (n_keys + BLOCK_KEYS - 1) / BLOCK_KEYS);
}

#endif
