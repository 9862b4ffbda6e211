// Attention over the keys of one KV head, for whichever instruction set includes it.
//
// Online softmax (Milakov and Gimelshein 2018; Dao et al. 2022, FlashAttention): rows, i.e. query
// heads of tokens, are taken in tiles; for each tile the keys pass once in blocks, and a row keeps
// its maximum, the sum of its weights and its weighted sum of values. Inside a block, ROWS rows
// that see the same keys go together: their scores (dot products, summed over the lanes for
// VEC_LANES row-key pairs at once), their weights, and the values blended with them. Keys and
// values are widened to f32 in registers, so decoding reads each K and V row from memory once for
// the group, and a block of them stays in the first-level cache while all rows of a tile use it.
//
// Deterministic: blocks begin at multiples of BLOCK_KEYS from key 0, and the arithmetic of a row
// does not depend on which rows it goes with; so a token's result does not depend on the other
// tokens and heads of the call.

#ifndef FATHOM_CPU_X86_ATTEND_BODY_H
#define FATHOM_CPU_X86_ATTEND_BODY_H

#include "cpu/x86/attend_fetch.h"
#include "cpu/x86/simd.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "src/iface/kernels.h"

enum {
    TILE_ROWS = 64,
    ROWS = 8, // at most, that go together
    D_MAX = 256,
    KEY_STEP = 16, // scores are computed for whole steps of keys
};
static_assert(KEY_STEP % VEC_LANES == 0 && BLOCK_KEYS % KEY_STEP == 0, "vectors fill a step");

static const float BASE_SLACK = 4; // exp(4): far from overflow, and few roundings of s - base

// What a tile of rows keeps between blocks; lies in the scratch memory.
struct attend_tile {
    float o[TILE_ROWS][D_MAX];        // weighted sums of values, relative to exp(base)
    double sum[TILE_ROWS];            // of weights, likewise
    float base[TILE_ROWS];            // a score that none exceeds by more than BASE_SLACK
    float weights[BLOCK_KEYS * ROWS]; // of the rows that go together, [BLOCK_KEYS, n_rows]
    char k_tail[KEY_STEP * D_MAX * sizeof(float)]; // the last step of keys, filled up with zeros
};
static_assert(sizeof(struct attend_tile) <= ATTEND_SCRATCH_BYTES, "scratch is too small");

// Some keys of the block: from begin to end - 1.
struct key_range {
    uint32_t begin, end;
};

// ROWS rows at most that go together, and the block.
struct attend_step {
    const struct attend_args *args;
    struct attend_tile *tile;
    uint32_t first_row; // in the tile
    const float *q[ROWS];
    const char *k, *v;     // of key 0 of the block
    const char *k_tail;    // of the step of keys at n_whole, where a block is not whole steps
    uint32_t n_whole;      // keys of whole steps
    struct key_range keys; // that all these rows see
    struct fetch fetch;
};

SIMD_INLINE size_t value_bytes(int32_t type)
{
    return type == FATHOM_TYPE_F32 ? 4 : 2;
}

// sums[key * n_rows + row] += q[row][c ...] * k[key][c ...] by lanes.
SIMD_INLINE void dot_columns(int32_t type, int n_rows, int n_keys, const struct attend_step *s,
                             const char *k, size_t stride_bytes, uint32_t c, size_t n, vec *sums)
{
    vec keys[VEC_LANES];
#pragma GCC unroll 16
    for (int key = 0; key < n_keys; key++)
        keys[key] = vec_load_type_n(type, k + key * stride_bytes + c * value_bytes(type), n);
#pragma GCC unroll 16
    for (int row = 0; row < n_rows; row++) {
        vec q = vec_hold(vec_load_n(s->q[row] + c, n));
#pragma GCC unroll 16
        for (int key = 0; key < n_keys; key++)
            sums[key * n_rows + row] = vec_fma(q, keys[key], sums[key * n_rows + row]);
    }
}

// weights = scale * <q[row], k[key]> for keys begin .. end - 1; begin is that of a step.
SIMD_INLINE void score_keys(int32_t type, int n_rows, struct attend_step *s, const char *k,
                            size_t stride_bytes, uint32_t begin, uint32_t end)
{
    const uint32_t n_keys = VEC_LANES / (uint32_t)n_rows;
    const uint32_t d = s->args->d_k, d_whole = d - d % VEC_LANES;
    const size_t step_bytes = VEC_LANES * n_keys * value_bytes(type);
    const uint32_t period = fetch_period(step_bytes);
    vec scale = vec_set1(s->args->scale);
    for (uint32_t key = begin; key < end; key += n_keys, k += n_keys * stride_bytes) {
        vec sums[VEC_LANES];
#pragma GCC unroll 16
        for (int i = 0; i < VEC_LANES; i++)
            sums[i] = vec_zero();
        if (n_rows == 1 && s->fetch.in_order) {
            // Two keys at a time, whole: nearly in the order of addresses, and two sums overlap.
            // With AVX-512 the processor follows K so well that fetching it costs up to a seventh.
            if (VEC_LANES < 16) fetch_in_order(&s->fetch, k, n_keys * stride_bytes);
#pragma GCC unroll 8
            for (uint32_t i = 0; i < n_keys; i += 2)
                for (uint32_t c = 0; c < d_whole; c += VEC_LANES)
                    dot_columns(type, 1, 2, s, k + i * stride_bytes, stride_bytes, c, VEC_LANES,
                                sums + i);
        } else {
            for (uint32_t c = 0; c < d_whole; c += VEC_LANES) {
                if (c % (VEC_LANES * period) == 0) fetch_by_turns(&s->fetch);
                // So many of the keys' bytes, for that many are read.
                fetch_in_order(&s->fetch, k + c * n_keys * value_bytes(type), step_bytes);
                dot_columns(type, n_rows, n_keys, s, k, stride_bytes, c, VEC_LANES, sums);
            }
        }
        if (d_whole < d)
            dot_columns(type, n_rows, n_keys, s, k, stride_bytes, d_whole, d - d_whole, sums);
        vec_store(s->tile->weights + key * (uint32_t)n_rows, vec_mul(scale, vec_sums(sums)));
    }
}

// Scores of keys that the rows do not see become -infinity.
SIMD_INLINE void hide_keys(int n_rows, const struct attend_step *s, uint32_t begin)
{
    const uint32_t n_keys = VEC_LANES / (uint32_t)n_rows;
    float lane_keys[VEC_LANES];
    for (uint32_t lane = 0; lane < VEC_LANES; lane++) {
        const uint32_t key = lane / (uint32_t)n_rows;
        lane_keys[lane] = (float)key;
    }
    for (uint32_t key = begin; key < s->keys.end || key % VEC_LANES != 0; key += n_keys) {
        float *at = s->tile->weights + key * (uint32_t)n_rows;
        vec keys = vec_add(vec_load(lane_keys), vec_set1((float)key));
        vec_store(at, vec_keep(vec_load(at), keys, (float)s->keys.begin, (float)s->keys.end,
                               vec_set1(-INFINITY)));
    }
}

// Turns scores into weights relative to the base of their row, and gives the factors for what was
// gathered before. The base is a score that no other exceeds by more than BASE_SLACK; while it
// stays, which the processor guesses rightly, weights need not wait for the maximum of the block.
// NaN goes on as a weight; it never becomes the base.
SIMD_INLINE void weigh_keys(int n_rows, const struct attend_step *s, float *factors)
{
    const uint32_t n_keys = VEC_LANES / (uint32_t)n_rows;
    const uint32_t begin = s->keys.begin - s->keys.begin % VEC_LANES;
    struct attend_tile *tile = s->tile;
    if (s->keys.begin % VEC_LANES != 0 || s->keys.end % VEC_LANES != 0) hide_keys(n_rows, s, begin);

    vec max = vec_set1(-INFINITY), sums[ROWS];
    for (uint32_t key = begin; key < s->keys.end; key += n_keys)
        max = vec_max(vec_load(tile->weights + key * (uint32_t)n_rows), max);
    max = vec_max_apart(max, n_rows);
    vec base = vec_repeat(tile->base + s->first_row, n_rows);
    vec limit = vec_add(base, vec_set1(BASE_SLACK)), factor = vec_set1(1);
    if (vec_any_above(max, limit)) {
        vec base_new = vec_above(max, limit, max, base);
        factor = vec_exp(vec_sub(base, base_new));
        base = base_new;
    }

    // The order of summation is the same for any n_rows: first by key % VEC_LANES, then halves.
#pragma GCC unroll 8
    for (int i = 0; i < n_rows; i++) {
        sums[i] = vec_zero();
        for (uint32_t key = begin; key < s->keys.end; key += VEC_LANES) {
            float *at = tile->weights + key * (uint32_t)n_rows + i * VEC_LANES;
            vec weights = vec_exp(vec_sub(vec_load(at), base));
            vec_store(at, weights);
            sums[i] = vec_add(sums[i], weights);
        }
    }
#pragma GCC unroll 8
    for (int half = n_rows / 2; half > 0; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; i++)
            sums[i] = vec_add(sums[i], sums[i + half]);
    float lanes[3][VEC_LANES];
    vec_store(lanes[0], factor);
    vec_store(lanes[1], base);
    vec_store(lanes[2], vec_sum_apart(sums[0], n_rows));
#pragma GCC unroll 8
    for (int row = 0; row < n_rows; row++) {
        double *sum = &tile->sum[s->first_row + (uint32_t)row];
        factors[row] = lanes[0][row];
        tile->base[s->first_row + (uint32_t)row] = lanes[1][row];
        *sum = *sum * factors[row] + lanes[2][row];
    }
}

// o[row][c ...] = factor[row] * o[row][c ...] + sum_j weight[row, j] * v[j][c ...], for n_vecs
// vectors of columns, the last with n values. The block is summed up first and then added: its
// rounding errors do not grow with the number of keys.
SIMD_INLINE void blend_columns(int32_t type, int n_rows, int n_vecs, struct attend_step *s,
                               const float *factors, uint32_t c, size_t n)
{
    vec sums[VEC_LANES];
#pragma GCC unroll 16
    for (int i = 0; i < n_rows * n_vecs; i++)
        sums[i] = vec_zero();
    const size_t stride_bytes = s->args->v_stride_bytes, vec_bytes = VEC_LANES * value_bytes(type);
    const char *v = s->v + s->keys.begin * stride_bytes + c * value_bytes(type);
    const float *weights = s->tile->weights + s->keys.begin * (uint32_t)n_rows;
    const uint32_t period = fetch_period((size_t)n_vecs * vec_bytes);
    for (uint32_t key = s->keys.begin; key < s->keys.end; key++) {
        if (key % period == 0) fetch_by_turns(&s->fetch);
        if (c == 0) fetch_in_order(&s->fetch, v, stride_bytes);
        vec values[8];
#pragma GCC unroll 16
        for (int i = 0; i < n_vecs; i++)
            values[i] = vec_load_type_n(type, v + i * vec_bytes, i < n_vecs - 1 ? VEC_LANES : n);
#pragma GCC unroll 16
        for (int row = 0; row < n_rows; row++) {
            vec w = vec_set1(weights[row]);
#pragma GCC unroll 16
            for (int i = 0; i < n_vecs; i++)
                sums[row * n_vecs + i] = vec_fma(w, values[i], sums[row * n_vecs + i]);
        }
        v += stride_bytes;
        weights += n_rows;
    }
#pragma GCC unroll 16
    for (int row = 0; row < n_rows; row++) {
        float *o = s->tile->o[s->first_row + row] + c;
#pragma GCC unroll 16
        for (int i = 0; i < n_vecs; i++)
            vec_store(o + i * VEC_LANES,
                      vec_fma(vec_set1(factors[row]), vec_load(o + i * VEC_LANES),
                              sums[row * n_vecs + i]));
    }
}

SIMD_INLINE void attend_rows(int32_t type, int n_rows, struct attend_step *s)
{
    const size_t stride_bytes = s->args->k_stride_bytes;
    uint32_t begin = s->keys.begin - s->keys.begin % KEY_STEP;
    uint32_t end = s->keys.end < s->n_whole ? s->keys.end : s->n_whole;
    score_keys(type, n_rows, s, s->k + begin * stride_bytes, stride_bytes, begin, end);
    if (s->keys.end > s->n_whole)
        score_keys(type, n_rows, s, s->k_tail, s->args->d_k * value_bytes(type), s->n_whole,
                   s->n_whole + KEY_STEP);

    float factors[ROWS];
    weigh_keys(n_rows, s, factors);

    // At most half the registers hold sums. One row takes twice as many columns at a time, so that
    // V is read more nearly in the order of addresses.
    const int n_vecs = VEC_LANES / n_rows < 4 ? VEC_LANES / n_rows : 4;
    const uint32_t n_cols = (uint32_t)n_vecs * VEC_LANES;
    uint32_t c = 0;
    for (; n_rows == 1 && c + 2 * n_cols <= s->args->d_v; c += 2 * n_cols)
        blend_columns(type, n_rows, 2 * n_vecs, s, factors, c, VEC_LANES);
    for (; c + n_cols <= s->args->d_v; c += n_cols)
        blend_columns(type, n_rows, n_vecs, s, factors, c, VEC_LANES);
    for (; c + VEC_LANES <= s->args->d_v; c += VEC_LANES)
        blend_columns(type, n_rows, 1, s, factors, c, VEC_LANES);
    if (c < s->args->d_v) blend_columns(type, n_rows, 1, s, factors, c, s->args->d_v - c);
}

static inline int64_t clamp_key(int64_t key, int64_t low, int64_t high)
{
    return key < low ? low : key > high ? high : key;
}

// Of n_keys keys from `first` on, those that the token sees, relative to `first`.
static inline struct key_range find_seen(const struct attend_args *a, uint32_t token, int64_t first,
                                         int64_t n_keys)
{
    int64_t end = a->n_visible + token - first, begin = 0;
    if (a->n_window != 0) begin = end - a->n_window;
    end = clamp_key(end, 0, n_keys);
    return (struct key_range){(uint32_t)clamp_key(begin, 0, end), (uint32_t)end};
}

// All rows of the tile over one block of n_keys keys from `first` on.
SIMD_INLINE void attend_block(int32_t type, struct attend_step *s, uint32_t row_begin,
                              uint32_t n_rows, uint32_t first, uint32_t n_keys)
{
    const struct attend_args *a = s->args;
    s->k = (const char *)a->k + first * a->k_stride_bytes;
    s->v = (const char *)a->v + first * a->v_stride_bytes;
    s->n_whole = n_keys - n_keys % KEY_STEP;
    if (first % AHEAD_KEYS == 0) fetch_place(&s->fetch, a, first);
    if (n_keys % KEY_STEP != 0) {
        size_t row_bytes = a->d_k * value_bytes(type);
        memset(s->tile->k_tail, 0, KEY_STEP * row_bytes);
        for (uint32_t i = 0; i < n_keys % KEY_STEP; i++)
            memcpy(s->tile->k_tail + i * row_bytes, s->k + (s->n_whole + i) * a->k_stride_bytes,
                   row_bytes);
    }
    s->fetch.cold = s->fetch.in_order;
    for (uint32_t row = 0, n = 0; row < n_rows; row += n) {
        s->first_row = row;
        for (n = 0; n < ROWS && row + n < n_rows; n++) {
            uint32_t token = (row_begin + row + n) / a->group;
            uint32_t head = (row_begin + row + n) % a->group;
            struct key_range keys = find_seen(a, token, first, n_keys);
            if (n > 0 && (keys.begin != s->keys.begin || keys.end != s->keys.end)) break;
            s->keys = keys;
            s->q[n] = a->q + token * a->q_stride + head * a->d_k;
        }
        n = n >= 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
        if (s->keys.begin == s->keys.end) continue;
        if (n == 8) attend_rows(type, 8, s);
        if (n == 4) attend_rows(type, 4, s);
        if (n == 2) attend_rows(type, 2, s);
        if (n == 1) attend_rows(type, 1, s);
        s->fetch.cold = false;
    }
}

static inline void finish_row(const struct attend_args *a, const struct attend_tile *tile,
                              uint32_t tile_row, uint32_t row)
{
    uint32_t token = row / a->group, head = row % a->group;
    float *o = a->o + token * a->o_stride + head * a->d_v;
    double sum = tile->sum[tile_row];
    bool empty = sum == 0;
    vec divisor = vec_set1(empty ? 1.0f : (float)sum);
    for (uint32_t c = 0; c < a->d_v; c += VEC_LANES)
        vec_store_n(o + c, vec_div(vec_load(tile->o[tile_row] + c), divisor), a->d_v - c);
    float lse = empty ? -INFINITY : (float)(tile->base[tile_row] + log(sum));
    a->lse[token * a->lse_stride + head] = lse;
}

SIMD_INLINE void attend_typed(int32_t type, const struct attend_args *a)
{
    struct attend_tile *tile = a->scratch;
    struct attend_step s = {.args = a,
                            .tile = tile,
                            .k_tail = tile->k_tail,
                            .fetch = fetch_begin(a, value_bytes(type))};
    uint32_t n_rows_all = a->n_tokens * a->group;
    for (uint32_t row = 0; row < n_rows_all; row += TILE_ROWS) {
        uint32_t n_rows = n_rows_all - row < TILE_ROWS ? n_rows_all - row : TILE_ROWS;
        for (uint32_t i = 0; i < n_rows; i++) {
            memset(tile->o[i], 0, sizeof tile->o[i]);
            tile->sum[i] = 0;
            tile->base[i] = -FLT_MAX;
        }
        // The first token sees the least key, the last token the greatest.
        uint32_t begin = find_seen(a, row / a->group, 0, a->n_keys).begin;
        uint32_t end = find_seen(a, (row + n_rows - 1) / a->group, 0, a->n_keys).end;
        fetch_place(&s.fetch, a, begin - begin % AHEAD_KEYS);
        for (uint32_t first = begin - begin % BLOCK_KEYS; first < end; first += BLOCK_KEYS)
            attend_block(type, &s, row, n_rows, first,
                         a->n_keys - first < BLOCK_KEYS ? a->n_keys - first : BLOCK_KEYS);
        for (uint32_t i = 0; i < n_rows; i++)
            finish_row(a, tile, i, row + i);
    }
}

SIMD_INLINE void attend_any(const struct attend_args *a)
{
    if (a->kv_type == FATHOM_TYPE_F32) attend_typed(FATHOM_TYPE_F32, a);
    if (a->kv_type == FATHOM_TYPE_F16) attend_typed(FATHOM_TYPE_F16, a);
    if (a->kv_type == FATHOM_TYPE_BF16) attend_typed(FATHOM_TYPE_BF16, a);
}

#endif
