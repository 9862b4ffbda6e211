// What the kernels of quantised weights share: weights of 32 columns, unpacked, and their products
// with one token by VNNI. Forms and packing are in matmul_vnni_pack.h.
//
// A value is made by the same operations in the same order whatever the instruction set, so that
// all of them give the same bits.

#ifndef FATHOM_CPU_X86_MATMUL_VNNI_TILE_H
#define FATHOM_CPU_X86_MATMUL_VNNI_TILE_H

#include "cpu/x86/matmul_vnni_pack.h"

// 32 columns of 16 rows, ready to be met by tokens.
struct weights {
    __m512i u[STEPS];
    __m512 scale[2]; // of the halves of the columns; the second only where sub-scales are of 16
    __m512 offset;
};

// 0xf8: a | (b & c)
static ALWAYS_INLINE __m512i merge_bits(__m512i a, __m512i b, __m512i c)
{
    return _mm512_ternarylogic_epi32(a, b, c, 0xf8);
}

// Brings the upper bits of step j to bit 4 of each byte, with others around them.
static ALWAYS_INLINE __m512i upper_bits(const uint32_t n_bits, const uint8_t *quants, uint32_t j)
{
    __m512i bits = _mm512_loadu_si512(quants + VECTOR * (n_bits == 6 ? 4 + j / 4 : 4));
    uint32_t at = n_bits == 6 ? 2 * (j % 4) : j;
    return at <= 4 ? _mm512_slli_epi16(bits, 4 - at) : _mm512_srli_epi16(bits, at - 4);
}

static ALWAYS_INLINE void unpack_quants(const uint32_t n_bits, const uint8_t *quants, __m512i *u)
{
    const __m512i nibble = _mm512_set1_epi8(15);
    const __m512i upper = _mm512_set1_epi8(n_bits == 6 ? 0x30 : 0x10);
#pragma GCC unroll 8
    for (uint32_t j = 0; j < STEPS; j++) {
        __m512i raw = _mm512_loadu_si512(quants + VECTOR * (n_bits == 8 ? j : j / 2));
        u[j] = raw;
        if (n_bits == 8) continue;
        u[j] = _mm512_and_si512(j % 2 == 0 ? raw : _mm512_srli_epi16(raw, 4), nibble);
        if (n_bits > 4) u[j] = merge_bits(u[j], upper_bits(n_bits, quants, j), upper);
    }
}

static ALWAYS_INLINE __m512 load_halves(const uint8_t *at)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at));
}

static ALWAYS_INLINE __m512 load_bytes(const uint8_t *at)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)at)));
}

// Rows of group `group`, columns of block `block` of a unit.
static ALWAYS_INLINE void unpack_group(const int32_t type, const uint8_t *unit, uint32_t block,
                                       uint32_t group, struct weights *out)
{
    const struct layout layout = layout_of(type);
    const struct quant_form form = quant_form_of(type);
    const uint8_t *quants = unit + layout.header_bytes;
    const uint8_t *scales = unit + layout.scales_at + LANES * group;
    const uint8_t *mins = unit + layout.mins_at + LANES * group;
    unpack_quants(form.n_bits, quants + (GROUPS * block + group) * layout.group_bytes, out->u);
    out->scale[0] = load_halves(unit + 2 * LANES * group);
    if (form.has_min) out->offset = load_halves(unit + layout.offsets_at + 2 * LANES * group);
    if (form.block_values == BLOCK) return;
    if (form.sub_values == BLOCK) {
        out->scale[0] = _mm512_mul_ps(out->scale[0], load_bytes(scales + PANEL_ROWS * block));
    } else {
        __m512 low = load_bytes(scales + PANEL_ROWS * 2 * block);
        __m512 high = load_bytes(scales + PANEL_ROWS * (2 * block + 1));
        out->scale[1] = _mm512_mul_ps(out->scale[0], high);
        out->scale[0] = _mm512_mul_ps(out->scale[0], low);
    }
    if (!form.has_min) return;
    __m512 min = load_bytes(mins + PANEL_ROWS * block);
    out->offset = _mm512_sub_ps(_mm512_setzero_ps(), _mm512_mul_ps(out->offset, min));
}

// Adds the dot products of steps begin .. end with a half of the activations to those of the
// groups.
static ALWAYS_INLINE void dot_steps(const struct weights *w, const uint32_t n_groups,
                                    const int8_t *q, const uint32_t begin, const uint32_t end,
                                    __m512i *dots)
{
#pragma GCC unroll 8
    for (uint32_t j = begin; j < end; j++) {
        int32_t four;
        memcpy(&four, q + 4 * j, sizeof four);
        __m512i x = _mm512_set1_epi32(four);
        for (uint32_t g = 0; g < n_groups; g++)
            dots[g] = _mm512_dpbusd_epi32(dots[g], w[g].u[j], x);
    }
}

// -zero * sum of q: what makes the dot product one with u - zero.
static ALWAYS_INLINE __m512i start_at(const int32_t type, __m512i neg_sum)
{
    switch (quant_form_of(type).zero) {
    case 8:
        return _mm512_slli_epi32(neg_sum, 3);
    case 16:
        return _mm512_slli_epi32(neg_sum, 4);
    case 32:
        return _mm512_slli_epi32(neg_sum, 5);
    case 128:
        return _mm512_slli_epi32(neg_sum, 7);
    default:
        return _mm512_setzero_si512();
    }
}

// The sum and the product of a group's rows that has these dot products with u - zero.
static ALWAYS_INLINE __m512 add_dots(__m512 sum, __m512i upper, __m512i lower, __m512 w_scale,
                                     __m512 x_scale)
{
    // Below 2^28: 32 * 255 * 127 * 128 and 32 * 128 * 127 * 128.
    __m512i dot = _mm512_add_epi32(_mm512_slli_epi32(upper, LOWER_BITS), lower);
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(w_scale, x_scale), sum);
}

// Adds the products of steps begin .. end, which have the scales w[].scale[sub], to the sums.
static ALWAYS_INLINE void add_steps(const int32_t type, __m512 *sums, const struct weights *w,
                                    const uint32_t n_groups, const struct x_block *x,
                                    __m512i neg_sum, const uint32_t sub, const uint32_t begin,
                                    const uint32_t end)
{
    const __m512 x_scale = _mm512_set1_ps(x->scale);
    __m512i upper[GROUPS] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    __m512i lower[GROUPS] = {start_at(type, neg_sum), start_at(type, neg_sum)};
    dot_steps(w, n_groups, x->q[0], begin, end, upper);
    dot_steps(w, n_groups, x->q[1], begin, end, lower);
    for (uint32_t g = 0; g < n_groups; g++)
        sums[g] = add_dots(sums[g], upper[g], lower[g], w[g].scale[sub], x_scale);
}

// Adds what the offsets of 32 columns make of one token to the sums.
static ALWAYS_INLINE void add_offsets(const int32_t type, __m512 *sums, const struct weights *w,
                                      const uint32_t n_groups, const struct x_block *x)
{
    if (!quant_form_of(type).has_min) return;
    __m512 x_sum = _mm512_set1_ps(x->scaled_sum);
    for (uint32_t g = 0; g < n_groups; g++)
        sums[g] = _mm512_fmadd_ps(w[g].offset, x_sum, sums[g]);
}

// Adds the product of 32 columns and one token to the sums of n_groups groups of a panel.
static ALWAYS_INLINE void add_block(const int32_t type, __m512 *sums, const struct weights *w,
                                    const uint32_t n_groups, const struct x_block *x)
{
    const struct quant_form form = quant_form_of(type);
    const __m512i neg_sum = _mm512_set1_epi32(x->neg_sum);
    if (form.sub_values == BLOCK) {
        add_steps(type, sums, w, n_groups, x, neg_sum, 0, 0, STEPS);
    } else {
        __m512i neg_low = _mm512_set1_epi32(x->neg_sum_low);
        add_steps(type, sums, w, n_groups, x, neg_low, 0, 0, STEPS / 2);
        add_steps(type, sums, w, n_groups, x, _mm512_sub_epi32(neg_sum, neg_low), 1, STEPS / 2,
                  STEPS);
    }
    add_offsets(type, sums, w, n_groups, x);
}

#endif
