// What else selection needs, for whichever instruction set includes it: packing of representatives,
// weighted sums of rows, log-sum-exp.

#ifndef FATHOM_CPU_X86_SCORE_BLEND_H
#define FATHOM_CPU_X86_SCORE_BLEND_H

#include "cpu/x86/score_int.h"

#include <math.h>
#include <string.h>

#include "fathom/fathom.h"
#include "src/iface/kernels.h"

enum {
    PACK_D_MAX = 256,
    BLEND_ROWS = 32,                      // of all columns, that stay in the first-level cache
    BLEND_VECS = VEC_LANES == 16 ? 4 : 2, // columns whose sums stay in registers
    SUM_VECS = 64,                        // of exponentials, summed in f32
};

// The step between codes of x, as the reference has it.
static float find_rep_step(const float *x, uint32_t d)
{
    vec max = vec_zero(), wild = vec_zero();
    for (uint32_t c = 0; c < d; c += VEC_LANES) {
        vec values = vec_load_n(x + c, d - c);
        max = vec_max(vec_abs(values), max);
        wild = vec_add(wild, vec_sub(values, values)); // NaN where a value is not finite
    }
    float top = vec_hmax(max);
    if (isnan(vec_hsum(wild))) return NAN;
    return top < 0x1p-100f ? 0 : top / 127;
}

static void pack_reps_q8(const float *x, uint32_t n, uint32_t d, void *block, float *unpacked)
{
    int8_t codes[PACK_D_MAX + VEC_LANES];
    float *steps = block;
    uint8_t *words = (uint8_t *)block + REP_LANES * sizeof(float);
    for (uint32_t lane = 0; lane < REP_LANES; lane++) {
        float step = lane < n ? find_rep_step(x + lane * d, d) : 0;
        memset(codes, 0, sizeof codes);
        steps[lane] = step;
        for (uint32_t c = 0; c < d && lane < n; c += VEC_LANES) {
            vec code = vec_zero();
            if (step > 0)
                code = vec_round(vec_div(vec_load_n(x + lane * d + c, d - c), vec_set1(step)));
            int_store8(codes + c, int_round(code));
            if (unpacked != NULL)
                vec_store_n(unpacked + lane * d + c, vec_mul(vec_set1(step), code), d - c);
        }
        for (uint32_t c = 0; c < d; c += 4) {
            uint32_t word;
            memcpy(&word, codes + c, sizeof word);
            word ^= 0x80808080; // + 128 each
            memcpy(words + (size_t)(c / 4 * REP_LANES + lane) * 4, &word, sizeof word);
        }
    }
}

static void pack_reps_f16(const float *x, uint32_t n, uint32_t d, uint16_t *block, float *unpacked)
{
    uint16_t halves[PACK_D_MAX + VEC_LANES];
    for (uint32_t lane = 0; lane < REP_LANES; lane++) {
        memset(halves, 0, sizeof halves);
        for (uint32_t c = 0; c < d && lane < n; c += VEC_LANES) {
            vec values = vec_load_n(x + lane * d + c, d - c);
            vec_store_half_n(FATHOM_TYPE_F16, halves + c, values, VEC_LANES);
            if (unpacked != NULL)
                vec_store_n(unpacked + lane * d + c, vec_load_type(FATHOM_TYPE_F16, halves + c),
                            d - c);
        }
        for (uint32_t c = 0; c < d; c++)
            block[c * REP_LANES + lane] = halves[c];
    }
}

static void pack_reps(bool q8, const float *x, uint32_t n, uint32_t d, void *block, float *unpacked)
{
    if (q8)
        pack_reps_q8(x, n, d, block, unpacked);
    else
        pack_reps_f16(x, n, d, block, unpacked);
}

// ---- Weighted sums of rows ----------------------------------------------------------------------

// Columns of n_heads heads: n_vecs vectors whole, or what is left of one.
SIMD_INLINE void blend_tile(int n_heads, int n_vecs, const float *weight, size_t stride,
                            const uint16_t *rows, size_t n_rows, uint32_t d, uint32_t n_columns,
                            float *o)
{
    vec sums[4 * BLEND_VECS];
#pragma GCC unroll 16
    for (int i = 0; i < n_heads * n_vecs; i++)
        sums[i] = vec_load_n(o + i / n_vecs * d + i % n_vecs * VEC_LANES, n_columns);
    for (size_t row = 0; row < n_rows; row++) {
        vec values[BLEND_VECS];
#pragma GCC unroll 4
        for (int v = 0; v < n_vecs; v++)
            values[v] = vec_load_type_n(FATHOM_TYPE_F16, rows + row * d + v * VEC_LANES, n_columns);
#pragma GCC unroll 16
        for (int i = 0; i < n_heads * n_vecs; i++)
            sums[i] =
                vec_fma(vec_set1(weight[i / n_vecs * stride + row]), values[i % n_vecs], sums[i]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n_heads * n_vecs; i++)
        vec_store_n(o + i / n_vecs * d + i % n_vecs * VEC_LANES, sums[i], n_columns);
}

SIMD_INLINE void blend_columns(int n_heads, const float *weight, size_t stride,
                               const uint16_t *rows, size_t n_rows, uint32_t d, float *o)
{
    uint32_t c = 0;
    for (; c + BLEND_VECS * VEC_LANES <= d; c += BLEND_VECS * VEC_LANES)
        blend_tile(n_heads, BLEND_VECS, weight, stride, rows + c, n_rows, d, VEC_LANES, o + c);
    for (; c < d; c += VEC_LANES)
        blend_tile(n_heads, 1, weight, stride, rows + c, n_rows, d, d - c, o + c);
}

static void blend_rows(const float *weight, size_t stride, uint32_t group, const uint16_t *rows,
                       size_t n, uint32_t d, float *o)
{
    for (size_t row = 0; row < n; row += BLEND_ROWS) {
        size_t n_rows = n - row < BLEND_ROWS ? n - row : BLEND_ROWS;
        uint32_t g = 0;
        for (; g + 4 <= group; g += 4)
            blend_columns(4, weight + g * stride + row, stride, rows + row * d, n_rows, d,
                          o + g * d);
        for (; g < group; g++)
            blend_columns(1, weight + g * stride + row, stride, rows + row * d, n_rows, d,
                          o + g * d);
    }
}

// ---- Log-sum-exp --------------------------------------------------------------------------------

// -infinity past n, and where there is no weight.
SIMD_INLINE vec load_exponents(const float *x, const float *weight, size_t n)
{
    // Said, because gcc 12 with ASan stores it as aligned without aligning it.
    _Alignas(64) float lanes[VEC_LANES];
    if (n < VEC_LANES) {
        vec_store(lanes, vec_set1(-INFINITY));
        memcpy(lanes, x, n * sizeof *x);
        x = lanes;
    }
    vec values = vec_load(x);
    if (weight == NULL) return values;
    return vec_above(vec_load_n(weight, n), vec_zero(), values, vec_set1(-INFINITY));
}

// e^x, but 0 for what would come near the subnormal numbers, which cost a hundred cycles each.
SIMD_INLINE vec exp_normal(vec x)
{
    const vec least = vec_set1(-87.0f);
    return vec_above(least, x, vec_zero(), vec_exp(vec_max(least, x)));
}

SIMD_INLINE vec weigh_exponents(const float *x, const float *weight, size_t i, size_t n, vec base)
{
    const float *weight_at = weight == NULL ? NULL : weight + i;
    vec values = exp_normal(vec_sub(load_exponents(x + i, weight_at, n), base));
    return weight == NULL ? values : vec_mul(values, vec_load_n(weight_at, n));
}

static float max_exponent(const float *x, const float *weight, size_t n)
{
    vec max = vec_set1(-INFINITY);
    size_t i = 0;
    for (; i + VEC_LANES <= n; i += VEC_LANES)
        max = vec_max(load_exponents(x + i, weight == NULL ? NULL : weight + i, VEC_LANES), max);
    if (i < n) max = vec_max(load_exponents(x + i, weight == NULL ? NULL : weight + i, n - i), max);
    return vec_hmax(max);
}

static float log_sum_exp(const float *x, const float *weight, size_t n)
{
    float top = max_exponent(x, weight, n), base = isfinite(top) ? top : 0;
    double total = 0;
    for (size_t i = 0; i < n;) {
        size_t end = i + SUM_VECS * VEC_LANES < n ? i + SUM_VECS * VEC_LANES : n;
        vec sum = vec_zero();
        for (; i + VEC_LANES <= end; i += VEC_LANES)
            sum = vec_add(sum, weigh_exponents(x, weight, i, VEC_LANES, vec_set1(base)));
        if (i < end) sum = vec_add(sum, weigh_exponents(x, weight, i, end - i, vec_set1(base)));
        i = end;
        total += vec_hsum(sum);
    }
    return (float)(base + log(total));
}

SIMD_INLINE void fill_blend_entries(struct kernel_table *table)
{
    table->kv.pack_reps = pack_reps;
    table->kv.blend_rows = blend_rows;
    table->kv.log_sum_exp = log_sum_exp;
}

#endif
