// The vector kernels, for whichever instruction set includes it: norms, rotary, softmax,
// activations, number types.
//
// All of them wait for memory rather than for arithmetic, so each is one plain loop whose last step
// takes what is left. Sums are kept by lanes, in an order that depends on nothing but the length.

#ifndef FATHOM_CPU_X86_VECTOR_BODY_H
#define FATHOM_CPU_X86_VECTOR_BODY_H

#include "cpu/x86/simd.h"

#include <math.h>
#include <string.h>

#include "fathom/fathom.h"
#include "src/iface/kernels.h"

static void convert_row(int32_t type, const float *x, void *out, size_t n)
{
    if (type == FATHOM_TYPE_F32) {
        if (n > 0) memcpy(out, x, n * sizeof *x);
        return;
    }
    for (size_t i = 0; i < n; i += VEC_LANES) {
        uint16_t *at = (uint16_t *)out + i;
        if (type == FATHOM_TYPE_F16)
            vec_store_half_n(FATHOM_TYPE_F16, at, vec_load_n(x + i, n - i), n - i);
        else
            vec_store_half_n(FATHOM_TYPE_BF16, at, vec_load_n(x + i, n - i), n - i);
    }
}

static void norm_rows(const float *x, const float *weight, float *out, size_t n_rows, size_t n_cols,
                      float eps)
{
    for (size_t r = 0; r < n_rows; r++, x += n_cols, out += n_cols) {
        vec sum = vec_zero();
        for (size_t c = 0; c < n_cols; c += VEC_LANES) {
            vec values = vec_load_n(x + c, n_cols - c);
            sum = vec_fma(values, values, sum);
        }
        vec factor = vec_set1((float)(1 / sqrt(vec_hsum(sum) / (double)n_cols + eps)));
        for (size_t c = 0; c < n_cols; c += VEC_LANES) {
            vec scaled = vec_mul(vec_load_n(x + c, n_cols - c), factor);
            vec_store_n(out + c, vec_mul(scaled, vec_load_n(weight + c, n_cols - c)), n_cols - c);
        }
    }
}

static void turn_adjacent(float *x, const float *cos_sin, uint32_t n_rot)
{
    for (uint32_t i = 0; i < n_rot; i += VEC_LANES) {
        vec angles = vec_load_n(cos_sin + i, n_rot - i);
        vec_store_n(x + i, vec_turn_pairs(vec_load_n(x + i, n_rot - i), angles), n_rot - i);
    }
}

static void turn_halves(float *x, const float *cos_sin, uint32_t n_pairs)
{
    for (uint32_t i = 0; i < n_pairs; i += VEC_LANES) {
        // The angles of the vector's pairs; the second half may be wholly past the end.
        size_t n = n_pairs - i, n_low = 2 * n, n_high = n_low > VEC_LANES ? n_low - VEC_LANES : 0;
        vec low = vec_load_n(cos_sin + 2 * i, n_low), high = vec_zero();
        if (n_high > 0) high = vec_load_n(cos_sin + 2 * i + VEC_LANES, n_high);
        vec c = vec_even(low, high), s = vec_odd(low, high);
        vec a = vec_load_n(x + i, n), b = vec_load_n(x + n_pairs + i, n);
        vec_store_n(x + i, vec_sub(vec_mul(a, c), vec_mul(b, s)), n);
        vec_store_n(x + n_pairs + i, vec_fma(a, s, vec_mul(b, c)), n);
    }
}

static void turn_heads(float *x, const float *cos_sin, uint32_t n_heads, uint32_t d, uint32_t n_rot,
                       int32_t pairing)
{
    if (pairing == FATHOM_ROPE_NONE) return;
    n_rot -= n_rot % 2;
    for (uint32_t h = 0; h < n_heads; h++, x += d) {
        if (pairing == FATHOM_ROPE_ADJACENT)
            turn_adjacent(x, cos_sin, n_rot);
        else
            turn_halves(x, cos_sin, n_rot / 2);
    }
}

// The greatest value, NaN left out; -infinity for none.
static float find_max(const float *x, size_t n)
{
    vec max = vec_set1(-INFINITY);
    size_t i = 0;
    for (; i + VEC_LANES <= n; i += VEC_LANES)
        max = vec_max(vec_load(x + i), max);
    float top = vec_hmax(max);
    for (; i < n; i++)
        if (x[i] > top) top = x[i];
    return top;
}

static void soften_rows(float *x, size_t n_rows, size_t n_cols)
{
    for (size_t r = 0; r < n_rows; r++, x += n_cols) {
        // Where all values are -infinity, any base gives zeros, and dividing by 1 keeps them; with
        // a NaN or +infinity among them the sum is NaN, and so is the row.
        float max = find_max(x, n_cols), total = 0;
        vec base = vec_set1(max == -INFINITY ? 0 : max), sum = vec_zero();
        size_t c = 0;
        for (; c + VEC_LANES <= n_cols; c += VEC_LANES) {
            vec weights = vec_exp(vec_sub(vec_load(x + c), base));
            vec_store(x + c, weights);
            sum = vec_add(sum, weights);
        }
        total = vec_hsum(sum);
        if (c < n_cols) {
            float rest[VEC_LANES];
            vec weights = vec_exp(vec_sub(vec_load_n(x + c, n_cols - c), base));
            vec_store(rest, weights);
            vec_store_n(x + c, weights, n_cols - c);
            for (size_t i = 0; i < n_cols - c; i++)
                total += rest[i];
        }
        vec divisor = vec_set1(total == 0 ? 1 : total);
        for (c = 0; c < n_cols; c += VEC_LANES)
            vec_store_n(x + c, vec_div(vec_load_n(x + c, n_cols - c), divisor), n_cols - c);
    }
}

// gate / (1 + exp(-gate)), with the exponential of -|gate|, which cannot overflow.
SIMD_INLINE vec vec_silu(vec gate)
{
    vec one = vec_set1(1), e = vec_exp(vec_sub(vec_zero(), vec_abs(gate)));
    vec numerator = vec_above(vec_zero(), gate, e, one);
    return vec_mul(gate, vec_div(numerator, vec_add(one, e)));
}

static void gate_values(const float *gate, const float *up, float *out, size_t n)
{
    for (size_t i = 0; i < n; i += VEC_LANES) {
        vec gated = vec_mul(vec_silu(vec_load_n(gate + i, n - i)), vec_load_n(up + i, n - i));
        vec_store_n(out + i, gated, n - i);
    }
}

static void add_values(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i += VEC_LANES)
        vec_store_n(x + i, vec_add(vec_load_n(x + i, n - i), vec_load_n(y + i, n - i)), n - i);
}

SIMD_INLINE void fill_vector_entries(struct kernel_table *table)
{
    table->convert = convert_row;
    table->rmsnorm = norm_rows;
    table->rope = turn_heads;
    table->softmax = soften_rows;
    table->swiglu = gate_values;
    table->add = add_values;
}

#endif
