// How queries are packed for the scores, and what packing loses.
//
// A query is rounded to codes in steps of its greatest value: q[c] = step * (code[c] + rest[c]),
// |rest[c]| <= 1/2 and a little. What the rests may do to a score is known exactly once they are
// known, so the slack is their norm (representatives) or the sum of their sizes (rows), not an
// estimate. To it come the roundings of f32, u = 2^-24 each.
//
// NaN or infinity in a head's query, or products that overflow, make its step NaN, and with it all
// its scores and the slack.

#ifndef FATHOM_CPU_X86_SCORE_QUERY_H
#define FATHOM_CPU_X86_SCORE_QUERY_H

#include "cpu/x86/score_int.h"

#include <math.h>
#include <string.h>

#include "src/iface/kv_kernels.h"

enum { QUERY_D_MAX = 256, QUERY_D_STEP = 32 }; // codes are zero up to a multiple of the step

// One head's packed query.
struct score_query {
    union {
        int8_t narrow[QUERY_D_MAX]; // by channel
        int16_t wide[QUERY_D_MAX];  // likewise, but 0 2 1 3 of each four
    } codes;
    float step;
    float base;   // of rows: the score where all codes are 0
    int32_t zero; // of representatives: -128 * the sum of the codes
} __attribute__((aligned(64)));

// Sums of what is left when a query is rounded.
struct query_rest {
    float top;          // max |x|, no sum
    float sizes;        // of |rest|
    float squares;      // of rest^2
    float codes;        // of the codes
    float code_squares; // of code^2
};

// Below this a query counts as zeros, so that 1 / step is a number; as the reference's TINY.
static const float QUERY_TINY = 0x1p-100f;
static const float QUERY_U = 0x1p-24f;
// Room for the roundings in the sums of rests, whose terms are positive.
static const float REST_ROOM = 1.001f;

// Codes of x [d], which is zero from d to a multiple of QUERY_D_STEP. WIDE: 16 bits.
SIMD_INLINE struct query_rest code_query(bool wide, const float *x, uint32_t d,
                                         struct score_query *query)
{
    vec max = vec_zero(), wild = vec_zero();
    for (uint32_t c = 0; c < d; c += VEC_LANES) {
        vec values = vec_load(x + c);
        max = vec_max(vec_abs(values), max);
        wild = vec_add(wild, vec_sub(values, values)); // NaN where a value is not finite
    }
    float top = vec_hmax(max);
    query->step = (top < QUERY_TINY ? 0 : top / (wide ? 32767 : 127)) + vec_hsum(wild);
    vec minus_step = vec_set1(-query->step),
        inverse = vec_set1(query->step > 0 ? 1 / query->step : 0);
    vec sizes = vec_zero(), squares = vec_zero(), codes = vec_zero(), code_squares = vec_zero();
    for (uint32_t c = 0; c < d; c += QUERY_D_STEP)
        for (uint32_t at = c; at < c + QUERY_D_STEP; at += VEC_LANES) {
            vec values = vec_load(x + at), code = vec_round(vec_mul(values, inverse));
            vec left = vec_mul(vec_fma(minus_step, code, values), inverse);
            sizes = vec_add(sizes, vec_abs(left));
            squares = vec_fma(left, left, squares);
            codes = vec_add(codes, code);
            code_squares = vec_fma(code, code, code_squares);
            if (wide)
                int_store16_pairs(query->codes.wide + at, int_round(code));
            else
                int_store8(query->codes.narrow + at, int_round(code));
        }
    return (struct query_rest){top, vec_hsum(sizes), vec_hsum(squares), vec_hsum(codes),
                               vec_hsum(code_squares)};
}

// The score is step * rep_step * sum of code * code: the integers are exact, the three products and
// the unpacked value are rounded, each by u of the score, which is below |q| * |vector|.
SIMD_INLINE float pack_rep_head(bool wide, const float *q, uint32_t d, struct score_query *query)
{
    float x[QUERY_D_MAX] = {0};
    memcpy(x, q, d * sizeof *q);
    struct query_rest rest = code_query(wide, x, d, query);
    query->zero = (int32_t)(query->step >= 0 ? -128 * rest.codes : 0);
    if (query->step == 0) return rest.top * sqrtf(QUERY_D_MAX);
    return query->step * (sqrtf(rest.squares) * REST_ROOM + 8 * QUERY_U * sqrtf(rest.code_squares));
}

// The score is base + step * sum of code * code, base = sum of q * (k_min + middle * k_step) - step
// * middle * sum of codes: the middle of the codes' range is met exactly, so that a rest errs by
// half the range at most. The sums over d channels err by (d + 8) u of the sum of the sizes, the
// folded query, the base and the result by u each.
SIMD_INLINE float pack_row_head(uint32_t bits, const float *q, uint32_t d, const float *k_min,
                                const float *k_step, struct score_query *query)
{
    const float middle = bits == 4 ? 7.5f : 127.5f;
    float folded[QUERY_D_MAX];
    vec base = vec_zero(), base_size = vec_zero(), size = vec_zero();
    for (uint32_t c = 0; c < d; c += QUERY_D_STEP)
        for (uint32_t at = c; at < c + QUERY_D_STEP; at += VEC_LANES) {
            size_t n = at < d ? d - at : 0;
            vec values = vec_load_n(q + at, n), steps = vec_load_n(k_step + at, n);
            vec centre = vec_fma(vec_set1(middle), steps, vec_load_n(k_min + at, n));
            vec part = vec_mul(values, centre), fold = vec_mul(values, steps);
            base = vec_add(base, part);
            base_size = vec_add(base_size, vec_abs(part));
            size = vec_add(size, vec_abs(fold));
            vec_store(folded + at, fold);
        }
    struct query_rest rest = code_query(false, folded, d, query);
    query->base = vec_hsum(base) - query->step * middle * rest.codes;
    float sizes = vec_hsum(size);
    // Where the query counts as zeros, all of it is rest.
    float rests = query->step == 0 ? sizes : query->step * rest.sizes;
    return middle * (rests * REST_ROOM + 8 * QUERY_U * sizes) +
           (float)(d + 8) * QUERY_U * vec_hsum(base_size);
}

#endif
