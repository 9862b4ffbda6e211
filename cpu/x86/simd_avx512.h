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
SIMD_INLINE vec vec_hold(vec a)
{
    __asm__("" : "+v"(a));
    return a;
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
    if (n >= VEC_LANES) return vec_load_type(type, p); // converts from memory: one shuffle less
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

SIMD_INLINE vec vec_keep(vec a, vec x, float begin, float end, vec other)
{
    __mmask16 in = _mm512_cmp_ps_mask(x, vec_set1(begin), _CMP_GE_OQ);
    in = _mm512_mask_cmp_ps_mask(in, x, vec_set1(end), _CMP_LT_OQ);
    return _mm512_mask_mov_ps(other, in, a);
}

SIMD_INLINE bool vec_any_above(vec a, vec b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0;
}

SIMD_INLINE uint32_t vec_at_least(vec a, vec b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
}

SIMD_INLINE uint32_t vec_put_places(uint32_t *at, uint32_t bits, uint32_t first)
{
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const uint32_t n = (uint32_t)__builtin_popcount(bits);
    __m512i places = _mm512_add_epi32(lanes, _mm512_set1_epi32((int32_t)first));
    places = _mm512_maskz_compress_epi32((__mmask16)bits, places);
    _mm512_mask_storeu_epi32(at, mask_first(n), places);
    return n;
}

SIMD_INLINE vec vec_above(vec a, vec b, vec yes, vec no)
{
    return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), yes);
}

SIMD_INLINE vec vec_swap(vec a, int distance)
{
    if (distance == 8) return _mm512_shuffle_f32x4(a, a, 0x4e);
    if (distance == 4) return _mm512_shuffle_f32x4(a, a, 0xb1);
    return distance == 2 ? _mm512_permute_ps(a, 0x4e) : _mm512_permute_ps(a, 0xb1);
}

SIMD_INLINE vec vec_repeat(const float *p, int n)
{
    if (n == 8) return _mm512_broadcast_f32x8(_mm256_loadu_ps(p));
    if (n == 4) return _mm512_broadcast_f32x4(_mm_loadu_ps(p));
    if (n == 2)
        return _mm512_castsi512_ps(_mm512_broadcastq_epi64(_mm_loadl_epi64((const void *)p)));
    return vec_set1(p[0]);
}

// Four rounds, each of which adds a vector's lanes i and i ^ distance and puts the sums of two
// vectors into one: those of the first where the bit of i is clear, of the second where it is set.
// Blends are cheaper than shuffles, which share ports with the multiply-adds.
SIMD_INLINE vec vec_sums(const vec a[VEC_LANES])
{
    vec b[8], c[4], d[2];
    for (int i = 0; i < 8; i++) // distance 8
        b[i] = vec_add(_mm512_mask_blend_ps(0xff00, a[i], a[i + 8]),
                       _mm512_shuffle_f32x4(a[i], a[i + 8], 0x4e));
    for (int i = 0; i < 4; i++) { // distance 2
        vec low = b[(i & 1) | (i & 2) << 1], high = b[(i & 1) | (i & 2) << 1 | 2];
        c[i] = vec_add(_mm512_mask_blend_ps(0xcccc, low, high), _mm512_shuffle_ps(low, high, 0x4e));
    }
    for (int i = 0; i < 2; i++) // distance 4
        d[i] = vec_add(_mm512_mask_blend_ps(0xf0f0, c[i], c[i + 2]),
                       vec_swap(_mm512_mask_blend_ps(0xf0f0, c[i + 2], c[i]), 4));
    return vec_add(_mm512_mask_blend_ps(0xaaaa, d[0], d[1]), // distance 1
                   vec_swap(_mm512_mask_blend_ps(0xaaaa, d[1], d[0]), 1));
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
