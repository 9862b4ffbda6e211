// Vectors of 8 floats with AVX2, FMA and F16C. What each operation means stands in simd.h.

#ifndef FATHOM_CPU_X86_SIMD_AVX2_H
#define FATHOM_CPU_X86_SIMD_AVX2_H

#include "fathom/types.h"

#include <immintrin.h>
#include <string.h>

#define SIMD_INLINE static inline __attribute__((always_inline))

typedef __m256 vec;
enum { VEC_LANES = 8 };

SIMD_INLINE vec vec_zero(void)
{
    return _mm256_setzero_ps();
}
SIMD_INLINE vec vec_set1(float x)
{
    return _mm256_set1_ps(x);
}
SIMD_INLINE float vec_first(vec a)
{
    return _mm256_cvtss_f32(a);
}
SIMD_INLINE vec vec_hold(vec a)
{
    __asm__("" : "+x"(a));
    return a;
}
SIMD_INLINE vec vec_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}
SIMD_INLINE vec vec_sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}
SIMD_INLINE vec vec_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}
SIMD_INLINE vec vec_div(vec a, vec b)
{
    return _mm256_div_ps(a, b);
}
SIMD_INLINE vec vec_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}
SIMD_INLINE vec vec_max(vec a, vec b)
{
    return _mm256_max_ps(a, b);
}
SIMD_INLINE vec vec_min(vec a, vec b)
{
    return _mm256_min_ps(a, b);
}
SIMD_INLINE vec vec_abs(vec a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}

SIMD_INLINE vec vec_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
SIMD_INLINE void vec_store(float *p, vec a)
{
    _mm256_storeu_ps(p, a);
}

SIMD_INLINE vec vec_load_n(const float *p, size_t n)
{
    if (n >= VEC_LANES) return vec_load(p);
    float lanes[VEC_LANES] = {0};
    memcpy(lanes, p, n * sizeof *p);
    return vec_load(lanes);
}

SIMD_INLINE void vec_store_n(float *p, vec a, size_t n)
{
    if (n >= VEC_LANES) {
        vec_store(p, a);
        return;
    }
    float lanes[VEC_LANES];
    vec_store(lanes, a);
    memcpy(p, lanes, n * sizeof *p);
}

SIMD_INLINE vec vec_load_type(int32_t type, const void *p)
{
    if (type == FATHOM_TYPE_F32) return vec_load(p);
    __m128i bits = _mm_loadu_si128(p);
    if (type == FATHOM_TYPE_F16) return _mm256_cvtph_ps(bits);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

SIMD_INLINE vec vec_load_type_n(int32_t type, const void *p, size_t n)
{
    if (n >= VEC_LANES) return vec_load_type(type, p);
    float lanes[VEC_LANES] = {0};
    memcpy(lanes, p, n * (type == FATHOM_TYPE_F32 ? 4 : 2));
    return vec_load_type(type, lanes);
}

SIMD_INLINE void vec_store_half_n(int32_t type, uint16_t *p, vec a, size_t n)
{
    __m128i halves;
    if (type == FATHOM_TYPE_F16) {
        halves = _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    } else {
        __m256i bits = _mm256_castps_si256(a);
        __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
        __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
        vec nan = _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
        bits = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(nan));
        bits = _mm256_srli_epi32(bits, 16);
        halves = _mm_packus_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
    }
    uint16_t lanes[VEC_LANES];
    _mm_storeu_si128((void *)lanes, halves);
    memcpy(p, lanes, (n >= VEC_LANES ? VEC_LANES : n) * sizeof *p);
}

SIMD_INLINE vec vec_keep(vec a, vec x, float begin, float end, vec other)
{
    vec in = _mm256_and_ps(_mm256_cmp_ps(x, vec_set1(begin), _CMP_GE_OQ),
                           _mm256_cmp_ps(x, vec_set1(end), _CMP_LT_OQ));
    return _mm256_blendv_ps(other, a, in);
}

SIMD_INLINE bool vec_any_above(vec a, vec b)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0;
}

SIMD_INLINE uint32_t vec_at_least(vec a, vec b)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ));
}

SIMD_INLINE uint32_t vec_put_places(uint32_t *at, uint32_t bits, uint32_t first)
{
    uint32_t n = 0;
    for (; bits != 0; bits &= bits - 1)
        at[n++] = first + (uint32_t)__builtin_ctz(bits);
    return n;
}

SIMD_INLINE vec vec_above(vec a, vec b, vec yes, vec no)
{
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_GT_OQ));
}

SIMD_INLINE vec vec_swap(vec a, int distance)
{
    if (distance == 4) return _mm256_permute2f128_ps(a, a, 0x01);
    return distance == 2 ? _mm256_permute_ps(a, 0x4e) : _mm256_permute_ps(a, 0xb1);
}

SIMD_INLINE vec vec_repeat(const float *p, int n)
{
    if (n == 8) return vec_load(p);
    if (n == 4) return _mm256_broadcast_ps((const void *)p);
    if (n == 2) return _mm256_castpd_ps(_mm256_broadcast_sd((const void *)p));
    return vec_set1(p[0]);
}

// Three rounds, each of which adds a vector's lanes i and i ^ distance and puts the sums of two
// vectors into one: those of the first where the bit of i is clear, of the second where it is set.
// Blends are cheaper than shuffles.
SIMD_INLINE vec vec_sums(const vec a[VEC_LANES])
{
    vec b[4], c[2];
    for (int i = 0; i < 4; i++) // distance 4
        b[i] = vec_add(_mm256_blend_ps(a[i], a[i + 4], 0xf0),
                       _mm256_permute2f128_ps(a[i], a[i + 4], 0x21));
    for (int i = 0; i < 2; i++) // distance 2
        c[i] =
            vec_add(_mm256_blend_ps(b[i], b[i + 2], 0xcc), _mm256_shuffle_ps(b[i], b[i + 2], 0x4e));
    return vec_add(_mm256_blend_ps(c[0], c[1], 0xaa), // distance 1
                   vec_swap(_mm256_blend_ps(c[1], c[0], 0xaa), 1));
}

SIMD_INLINE vec vec_round(vec a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// In two steps: 2^(n/2) is a normal number for all n that vec_exp comes with, and the first
// product is exact, so that subnormal results are rounded once.
SIMD_INLINE vec vec_scale2(vec a, vec n)
{
    __m256i whole = _mm256_cvtps_epi32(n);
    __m256i half = _mm256_srai_epi32(whole, 1);
    __m256i rest = _mm256_sub_epi32(whole, half);
    __m256i bias = _mm256_set1_epi32(127);
    vec first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    vec second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return vec_mul(vec_mul(a, first), second);
}

SIMD_INLINE vec vec_even(vec a, vec b)
{
    __m256d mixed = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(mixed, 0xd8));
}

SIMD_INLINE vec vec_odd(vec a, vec b)
{
    __m256d mixed = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xdd));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(mixed, 0xd8));
}

SIMD_INLINE vec vec_turn_pairs(vec x, vec cos_sin)
{
    vec swapped = _mm256_permute_ps(x, 0xb1);
    return _mm256_fmaddsub_ps(x, _mm256_moveldup_ps(cos_sin),
                              vec_mul(swapped, _mm256_movehdup_ps(cos_sin)));
}

#endif
