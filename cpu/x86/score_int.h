// Vectors of integers as wide as those of simd.h, for scores of codes.
//
// ivec                         VEC_LANES words of 32 bits
// int_load, int_set1           any alignment; every word the four bytes at p
// int_right, int_left (a, n)   each word shifted
// int_right8                   each 16 bits shifted
// int_load_rows(p, at)         piece i of 16 bytes from p[4 * i] + at
// int_turn_rows(p, at, words)  words[i]: bytes 4 i .. 4 i + 3 from p[0] + at, p[1] + at, ...
// int_low32 .. int_high64      interleave the lower or upper halves of each 16 bytes
// int_madd16                   sums of two products of 16 bits
// int_madd8(u, s)              sums of two products of unsigned and signed bytes, 16 bits
// int_dot8(sum, u, s)          adds sums of four such products; VNNI only
// int_round                    nearest even
// int_store8, int_store16      VEC_LANES signed values, which fit; _pairs: the middle two of each
//                              four change places

#ifndef FATHOM_CPU_X86_SCORE_INT_H
#define FATHOM_CPU_X86_SCORE_INT_H

#include "cpu/x86/simd.h"

#ifdef __AVX512F__

typedef __m512i ivec;

SIMD_INLINE ivec int_load(const void *p)
{
    return _mm512_loadu_si512(p);
}
SIMD_INLINE ivec int_fill(int32_t word)
{
    return _mm512_set1_epi32(word);
}
SIMD_INLINE ivec int_load_rows(const uint8_t *const *p, size_t at)
{
    __m512i a = _mm512_castsi128_si512(_mm_loadu_si128((const void *)(p[0] + at)));
    a = _mm512_inserti32x4(a, _mm_loadu_si128((const void *)(p[4] + at)), 1);
    a = _mm512_inserti32x4(a, _mm_loadu_si128((const void *)(p[8] + at)), 2);
    return _mm512_inserti32x4(a, _mm_loadu_si128((const void *)(p[12] + at)), 3);
}
SIMD_INLINE ivec int_low32(ivec a, ivec b)
{
    return _mm512_unpacklo_epi32(a, b);
}
SIMD_INLINE ivec int_high32(ivec a, ivec b)
{
    return _mm512_unpackhi_epi32(a, b);
}
SIMD_INLINE ivec int_low64(ivec a, ivec b)
{
    return _mm512_unpacklo_epi64(a, b);
}
SIMD_INLINE ivec int_high64(ivec a, ivec b)
{
    return _mm512_unpackhi_epi64(a, b);
}
SIMD_INLINE ivec int_and(ivec a, ivec b)
{
    return _mm512_and_si512(a, b);
}
SIMD_INLINE ivec int_right(ivec a, int n)
{
    return _mm512_srli_epi32(a, (unsigned)n);
}
SIMD_INLINE ivec int_left(ivec a, int n)
{
    return _mm512_slli_epi32(a, (unsigned)n);
}
SIMD_INLINE ivec int_right8(ivec a)
{
    return _mm512_srli_epi16(a, 8);
}
SIMD_INLINE ivec int_add32(ivec a, ivec b)
{
    return _mm512_add_epi32(a, b);
}
SIMD_INLINE ivec int_add16(ivec a, ivec b)
{
    return _mm512_add_epi16(a, b);
}
SIMD_INLINE ivec int_madd16(ivec a, ivec b)
{
    return _mm512_madd_epi16(a, b);
}
SIMD_INLINE ivec int_madd8(ivec u, ivec s)
{
    return _mm512_maddubs_epi16(u, s);
}
#    ifdef __AVX512VNNI__
SIMD_INLINE ivec int_dot8(ivec sum, ivec u, ivec s)
{
    return _mm512_dpbusd_epi32(sum, u, s);
}
#    endif
SIMD_INLINE vec int_to_vec(ivec a)
{
    return _mm512_cvtepi32_ps(a);
}
SIMD_INLINE ivec int_round(vec a)
{
    return _mm512_cvtps_epi32(a);
}
SIMD_INLINE void int_store8(int8_t *p, ivec a)
{
    _mm_storeu_si128((void *)p, _mm512_cvtsepi32_epi8(a));
}
SIMD_INLINE void int_store16_pairs(int16_t *p, ivec a)
{
    a = _mm512_shuffle_epi32(a, _MM_PERM_DBCA);
    _mm256_storeu_si256((void *)p, _mm512_cvtsepi32_epi16(a));
}

#else

typedef __m256i ivec;

SIMD_INLINE ivec int_load(const void *p)
{
    return _mm256_loadu_si256(p);
}
SIMD_INLINE ivec int_fill(int32_t word)
{
    return _mm256_set1_epi32(word);
}
SIMD_INLINE ivec int_load_rows(const uint8_t *const *p, size_t at)
{
    return _mm256_loadu2_m128i((const void *)(p[4] + at), (const void *)(p[0] + at));
}
SIMD_INLINE ivec int_low32(ivec a, ivec b)
{
    return _mm256_unpacklo_epi32(a, b);
}
SIMD_INLINE ivec int_high32(ivec a, ivec b)
{
    return _mm256_unpackhi_epi32(a, b);
}
SIMD_INLINE ivec int_low64(ivec a, ivec b)
{
    return _mm256_unpacklo_epi64(a, b);
}
SIMD_INLINE ivec int_high64(ivec a, ivec b)
{
    return _mm256_unpackhi_epi64(a, b);
}
SIMD_INLINE ivec int_and(ivec a, ivec b)
{
    return _mm256_and_si256(a, b);
}
SIMD_INLINE ivec int_right(ivec a, int n)
{
    return _mm256_srli_epi32(a, n);
}
SIMD_INLINE ivec int_left(ivec a, int n)
{
    return _mm256_slli_epi32(a, n);
}
SIMD_INLINE ivec int_right8(ivec a)
{
    return _mm256_srli_epi16(a, 8);
}
SIMD_INLINE ivec int_add32(ivec a, ivec b)
{
    return _mm256_add_epi32(a, b);
}
SIMD_INLINE ivec int_add16(ivec a, ivec b)
{
    return _mm256_add_epi16(a, b);
}
SIMD_INLINE ivec int_madd16(ivec a, ivec b)
{
    return _mm256_madd_epi16(a, b);
}
SIMD_INLINE ivec int_madd8(ivec u, ivec s)
{
    return _mm256_maddubs_epi16(u, s);
}
SIMD_INLINE vec int_to_vec(ivec a)
{
    return _mm256_cvtepi32_ps(a);
}
SIMD_INLINE ivec int_round(vec a)
{
    return _mm256_cvtps_epi32(a);
}
SIMD_INLINE __m128i int_halve(ivec a)
{
    return _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
}
SIMD_INLINE void int_store8(int8_t *p, ivec a)
{
    __m128i halves = int_halve(a);
    _mm_storel_epi64((void *)p, _mm_packs_epi16(halves, halves));
}
SIMD_INLINE void int_store16_pairs(int16_t *p, ivec a)
{
    _mm_storeu_si128((void *)p, int_halve(_mm256_shuffle_epi32(a, 0xd8)));
}

#endif

SIMD_INLINE ivec int_set1(const void *p)
{
    int32_t word;
    __builtin_memcpy(&word, p, sizeof word);
    return int_fill(word);
}

SIMD_INLINE void int_turn_rows(const uint8_t *const *p, size_t at, ivec words[4])
{
    ivec rows[4], pairs[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) // rows i, 4 + i, ...
        rows[i] = int_load_rows(p + i, at);
    pairs[0] = int_low32(rows[0], rows[1]);
    pairs[1] = int_low32(rows[2], rows[3]);
    pairs[2] = int_high32(rows[0], rows[1]);
    pairs[3] = int_high32(rows[2], rows[3]);
    words[0] = int_low64(pairs[0], pairs[1]);
    words[1] = int_high64(pairs[0], pairs[1]);
    words[2] = int_low64(pairs[2], pairs[3]);
    words[3] = int_high64(pairs[2], pairs[3]);
}

#endif
