// Attention over runs of rows in codes: scores and sums of values for a block of keys.
//
// K: <q, k> = sum_c (q[c] step[c]) code[c] + <q, min>. The query, step folded in, is rounded to 16
// bits, in two planes of 8, and meets the codes in products of bytes: exact integers, since 32639 *
// 255 * 256 channels is below 2^31, without a code being widened. They come from score_dot.h or
// score_madd.h, which the including file chooses. The rounding is off by q_step / 2 in a channel,
// so by at most q_step / 2 * sum_c code[c] in all.
//
// V: sum_j w_j v[j] = sum_j (w_j step_j) code[j] + sum_j w_j min_j. The codes are widened in
// registers, where up to ROWS query rows use them.

#ifndef FATHOM_CPU_X86_ATTEND_RUNS_CODES_H
#define FATHOM_CPU_X86_ATTEND_RUNS_CODES_H

#include "cpu/x86/attend_runs_rows.h"
#include "cpu/x86/kv_lanes.h"

enum {
    BLEND_VECS = VEC_LANES == 16 ? 4 : 2, // as many sums, of ROWS rows, as half the registers hold
    PLANES_TOP = 127 * 256 + 127,
};

// The query rows of a tile and what they keep between blocks; lies in the scratch memory.
struct runs_tile {
    float q[TILE_ROWS][D_MAX]; // times scale
    // For K in codes: the query, times K's steps too, is q_step * (256 * planes[0] + planes[1]).
    int8_t planes[TILE_ROWS][2][D_MAX];
    float q_step[TILE_ROWS];
    float bias[TILE_ROWS];     // <q, K's min>
    float o[TILE_ROWS][D_MAX]; // weighted sums of values, relative to exp(base)
    vec sum[TILE_ROWS];        // of weights, likewise, by lanes
    float base[TILE_ROWS];     // a score that none exceeds by more than BASE_SLACK
    float weights[ROWS][BLOCK_KEYS];
    float folded[ROWS][BLOCK_KEYS]; // weights times V's steps, of a group of channels
};
static_assert(sizeof(struct runs_tile) <= ATTEND_SCRATCH_BYTES, "scratch is too small");

// The query rows from `first` on that go together, over a block.
struct runs_step {
    const struct attend_runs_args *args;
    struct runs_tile *tile;
    uint32_t first;
    const struct row_block *block;
    struct row_fetch *fetch;
};

// The query of a row for K in codes.
static void open_codes(const struct attend_runs_args *a, struct runs_tile *tile, uint32_t row)
{
    const uint32_t d = a->format.d_k;
    float *q = tile->q[row];
    vec bias = vec_zero(), max = vec_zero(), wild = vec_zero();
    for (uint32_t c = 0; c < d; c += VEC_LANES) {
        vec values = vec_load(q + c), folded = vec_mul(values, vec_load_n(a->k_step + c, d - c));
        bias = vec_fma(values, vec_load_n(a->k_min + c, d - c), bias);
        max = vec_max(vec_abs(folded), max);
        wild = vec_add(wild, vec_sub(folded, folded)); // NaN where a value is not finite
        vec_store(q + c, folded);
    }
    const float top = vec_hmax(max), step = top < QUERY_TINY ? 0 : top / PLANES_TOP;
    const vec inverse = vec_set1(step > 0 ? 1 / step : 0), part = vec_set1(0x1p-8f);
    for (uint32_t c = 0; c < d; c += VEC_LANES) {
        vec code = vec_round(vec_mul(vec_load(q + c), inverse));
        // A little above the quotient, so that of 128 the rest is -128, which a byte holds.
        vec high = vec_round(vec_fma(code, part, vec_set1(0x1p-10f)));
        int_store8(tile->planes[row][0] + c, int_round(high));
        int_store8(tile->planes[row][1] + c, int_round(vec_fma(high, vec_set1(-256), code)));
    }
    tile->bias[row] = vec_hsum(bias);
    tile->q_step[row] = step + vec_hsum(wild);
}

// weights = scores of the block's keys. What the planes hold past d meets codes of 0.
SIMD_INLINE void score_codes(int bits, int n_rows, const struct runs_step *s)
{
    struct runs_tile *tile = s->tile;
    const size_t row_bytes = kv_code_bytes((uint32_t)bits, s->args->format.d_k);
    for (uint32_t key = 0; key < BLOCK_KEYS; key += VEC_LANES) {
        for (uint32_t turn = 0; turn < VEC_LANES; turn += TURN_KEYS)
            fetch_turn(s->fetch);
        ivec sums[2 * ROWS];
#pragma GCC unroll 8
        for (int i = 0; i < 2 * n_rows; i++)
            sums[i] = int_fill(0);
        for (size_t at = 0; at < row_bytes; at += KV_PIECE_BYTES) {
            ivec words[4];
            int_turn_rows(s->block->k + key, at, words);
            sum_piece(bits, 2 * n_rows, words, tile->planes[s->first][0] + at * (8u / bits), D_MAX,
                      sums);
        }
#pragma GCC unroll 4
        for (int row = 0; row < n_rows; row++) {
            const uint32_t i = s->first + (uint32_t)row;
            vec sum = int_to_vec(int_add32(int_left(sums[2 * row], 8), sums[2 * row + 1]));
            vec_store(tile->weights[row] + key,
                      vec_fma(sum, vec_set1(tile->q_step[i]), vec_set1(tile->bias[i])));
        }
    }
}

// folded = weights times the steps of a group of V's channels; bias[row] = the sum of weights times
// mins.
SIMD_INLINE void fold_scales(int n_rows, const struct runs_step *s, uint32_t group, float *bias)
{
    uint32_t halves[BLOCK_KEYS]; // step and min of a key
    for (uint32_t key = 0; key < BLOCK_KEYS; key++)
        __builtin_memcpy(halves + key, s->block->v[key] + group * sizeof *halves, sizeof *halves);
    vec sums[ROWS];
#pragma GCC unroll 4
    for (int row = 0; row < n_rows; row++)
        sums[row] = vec_zero();
    for (uint32_t key = 0; key < BLOCK_KEYS; key += VEC_LANES) {
        vec a = vec_load_type(FATHOM_TYPE_F16, halves + key);
        vec b = vec_load_type(FATHOM_TYPE_F16, halves + key + VEC_LANES / 2);
        vec steps = vec_even(a, b), mins = vec_odd(a, b);
#pragma GCC unroll 4
        for (int row = 0; row < n_rows; row++) {
            vec weights = vec_load(s->tile->weights[row] + key);
            vec_store(s->tile->folded[row] + key, vec_mul(weights, steps));
            sums[row] = vec_fma(weights, mins, sums[row]);
        }
    }
#pragma GCC unroll 4
    for (int row = 0; row < n_rows; row++)
        bias[row] = vec_hsum(sums[row]);
}

// sums[row] += weights[row][key] * values, of n_vecs vectors.
SIMD_INLINE void add_weighted(int n_rows, int n_vecs, float (*weights)[BLOCK_KEYS], uint32_t key,
                              const vec *values, vec (*sums)[4])
{
#pragma GCC unroll 4
    for (int row = 0; row < n_rows; row++) {
        vec weight = vec_set1(weights[row][key]);
#pragma GCC unroll 4
        for (int i = 0; i < n_vecs; i++)
            sums[row][i] = vec_fma(weight, values[i], sums[row][i]);
    }
}

// Adds the block's values to o, of the channels in n_loads vectors of bytes at `at` of V's codes.
// Channels past d_v in the last piece are added, too: there is room.
SIMD_INLINE void blend_bytes(int bits, int n_rows, int n_loads, const struct runs_step *s,
                             uint32_t at, const float *bias)
{
    const int slots = 8 / bits, n_vecs = n_loads * slots;
    const uint32_t n_groups = (s->args->format.d_v + KV_GROUP - 1) / KV_GROUP;
    const size_t begin = n_groups * sizeof(uint16_t[2]) + at;
    vec sums[ROWS][4];
#pragma GCC unroll 4
    for (int row = 0; row < n_rows; row++)
#pragma GCC unroll 4
        for (int i = 0; i < n_vecs; i++)
            sums[row][i] = vec_set1(bias[row]);
    for (uint32_t key = 0; key < s->block->n_keys; key++) {
        if (key % TURN_KEYS == 0) fetch_turn(s->fetch);
        vec values[4];
#pragma GCC unroll 4
        for (int i = 0; i < n_vecs; i++) {
            lanes bytes = lanes_bytes(s->block->v[key] + begin + i / slots * VEC_LANES);
            values[i] = code_number((uint32_t)bits, bytes, (uint32_t)(i % slots * bits));
        }
        add_weighted(n_rows, n_vecs, s->tile->folded, key, values, sums);
    }
#pragma GCC unroll 4
    for (int row = 0; row < n_rows; row++)
#pragma GCC unroll 4
        for (int i = 0; i < n_vecs; i++) {
            const uint32_t byte = at + (uint32_t)(i / slots * VEC_LANES);
            const uint32_t c =
                (byte / KV_PIECE_BYTES * (uint32_t)slots + (uint32_t)(i % slots)) * KV_PIECE_BYTES +
                byte % KV_PIECE_BYTES;
            float *o = s->tile->o[s->first + (uint32_t)row] + c;
            vec_store(o, vec_add(vec_load(o), sums[row][i]));
        }
}

SIMD_INLINE void blend_codes(int bits, int n_rows, const struct runs_step *s)
{
    const int n_loads = BLEND_VECS * bits / 8 > 0 ? BLEND_VECS * bits / 8 : 1;
    const uint32_t group_bytes = KV_GROUP / 8 * (uint32_t)bits;
    const uint32_t n_bytes = (uint32_t)kv_code_bytes((uint32_t)bits, s->args->format.d_v);
    for (uint32_t group = 0; group * group_bytes < n_bytes; group++) {
        float bias[ROWS];
        fold_scales(n_rows, s, group, bias);
        uint32_t at = group * group_bytes;
        const uint32_t end = at + group_bytes < n_bytes ? at + group_bytes : n_bytes;
        for (; at + (uint32_t)n_loads * VEC_LANES <= end; at += (uint32_t)n_loads * VEC_LANES)
            blend_bytes(bits, n_rows, n_loads, s, at, bias);
        for (; at < end; at += VEC_LANES)
            blend_bytes(bits, n_rows, 1, s, at, bias);
    }
}

#endif
