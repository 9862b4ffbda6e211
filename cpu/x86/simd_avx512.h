// Vectors of 16 floats with AVX-512 F, BW, DQ and VL. What each operation means stands in simd.h.

#ifndef FATHOM_CPU_X86_SIMD_AVX512_H
#define FATHOM_CPU_X86_SIMD_AVX512_H

#include "fathom/types.h"

#include <immintrin.h>

#define SIMD_INLINE static inline __attribute__((always_inline))

typedef __m512 vec;
enum { VEC_LANES = 16 };

SIMD_INLINE vec vec_zero(void)
{
    return _mm512_setzero_ps();
}
SIMD_INLINE vec vec_set1(float x)
{
    return _mm512_set1_ps(x);
}
SIMD_INLINE float vec_first(vec a)
{
    return _mm512_cvtss_f32(a);
}
SIMD_INLINE vec vec_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}
SIMD_INLINE vec vec_sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}
SIMD_INLINE vec vec_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}
SIMD_INLINE vec vec_div(vec a, vec b)
{
    return _mm512_div_ps(a, b);
}
SIMD_INLINE vec vec_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}
SIMD_INLINE vec vec_max(vec a, vec b)
{
    return _mm512_max_ps(a, b);
}
SIMD_INLINE vec vec_min(vec a, vec b)
{
    return _mm512_min_ps(a, b);
}
SIMD_INLINE vec vec_abs(vec a)
{
    return _mm512_abs_ps(a);
}

// The lowest n lanes.
SIMD_INLINE __mmask16 mask_first(size_t n)
{
    return (__mmask16)(n >= VEC_LANES ? 0xffffu : (1u << n) - 1);
}

SIMD_INLINE vec vec_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
SIMD_INLINE void vec_store(float *p, vec a)
{
    _mm512_storeu_ps(p, a);
}
SIMD_INLINE vec vec_load_n(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps(mask_first(n), p);
}
SIMD_INLINE void vec_store_n(float *p, vec a, size_t n)
{
    _mm512_mask_storeu_ps(p, mask_first(n), a);
}

SIMD_INLINE vec vec_from_halves(int32_t type, __m256i halves)
{
    if (type == FATHOM_TYPE_F16) return _mm512_cvtph_ps(halves);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

SIMD_INLINE vec vec_load_type(int32_t type, const void *p)
{
    if (type == FATHOM_TYPE_F32) return vec_load(p);
    return vec_from_halves(type, _mm256_loadu_si256(p));
}

SIMD_INLINE vec vec_load_type_n(int32_t type, const void *p, size_t n)
{
    if (type == FATHOM_TYPE_F32) return vec_load_n(p, n);
    return vec_from_halves(type, _mm256_maskz_loadu_epi16(mask_first(n), p));
}

SIMD_INLINE void vec_store_half_n(int32_t type, uint16_t *p, vec a, size_t n)
{
    __m256i halves;
    if (type == FATHOM_TYPE_F16) {
        halves = _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    } else {
        __m512i bits = _mm512_castps_si512(a);
        __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
        __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
        bits = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
        halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16));
    }
    _mm256_mask_storeu_epi16(p, mask_first(n), halves);
}

SIMD_INLINE vec vec_keep(vec a, int32_t begin, int32_t end, vec other)
{
    uint32_t below_end = mask_first(end < 0 ? 0 : (size_t)end);
    uint32_t below_begin = mask_first(begin < 0 ? 0 : (size_t)begin);
    return _mm512_mask_mov_ps(other, (__mmask16)(below_end & ~below_begin), a);
}

SIMD_INLINE float vec_hsum(vec a)
{
    return _mm512_reduce_add_ps(a);
}
SIMD_INLINE float vec_hmax(vec a)
{
    return _mm512_reduce_max_ps(a);
}

SIMD_INLINE vec vec_sums(const vec a[VEC_LANES])
{
    vec pairs[8], quads[4], halves[2]; // pairs[i]: partial sums of a[2i], a[2i + 1], by 128 bits
    for (int i = 0; i < 8; i++)
        pairs[i] = vec_add(_mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]),
                           _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]));
    for (int i = 0; i < 4; i++) {
        __m512d low = _mm512_castps_pd(pairs[2 * i]), high = _mm512_castps_pd(pairs[2 * i + 1]);
        quads[i] = vec_add(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)),
                           _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
    }
    for (int i = 0; i < 2; i++)
        halves[i] = vec_add(_mm512_shuffle_f32x4(quads[2 * i], quads[2 * i + 1], 0x88),
                            _mm512_shuffle_f32x4(quads[2 * i], quads[2 * i + 1], 0xdd));
    return vec_add(_mm512_shuffle_f32x4(halves[0], halves[1], 0x88),
                   _mm512_shuffle_f32x4(halves[0], halves[1], 0xdd));
}

SIMD_INLINE vec vec_round(vec a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

SIMD_INLINE vec vec_scale2(vec a, vec n)
{
    return _mm512_scalef_ps(a, n);
}

SIMD_INLINE vec vec_even(vec a, vec b)
{
    __m512i lanes = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(a, lanes, b);
}

SIMD_INLINE vec vec_odd(vec a, vec b)
{
    __m512i lanes = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return _mm512_permutex2var_ps(a, lanes, b);
}

SIMD_INLINE vec vec_turn_pairs(vec x, vec cos_sin)
{
    vec swapped = _mm512_permute_ps(x, 0xb1);
    return _mm512_fmaddsub_ps(x, _mm512_moveldup_ps(cos_sin),
                              vec_mul(swapped, _mm512_movehdup_ps(cos_sin)));
}

#endif
