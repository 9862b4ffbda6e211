// Packed codes with AVX2. What each operation means stands in kv_lanes.h.

#ifndef FATHOM_CPU_X86_KV_LANES_AVX2_H
#define FATHOM_CPU_X86_KV_LANES_AVX2_H

#include "cpu/x86/simd.h"

typedef __m256i lanes;

SIMD_INLINE lanes lanes_bytes(const char *p)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p));
}

SIMD_INLINE void lanes_put_bytes(char *p, lanes a)
{
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storel_epi64((void *)p, _mm_packus_epi16(words, words));
}

SIMD_INLINE lanes lanes_zero(void)
{
    return _mm256_setzero_si256();
}

SIMD_INLINE lanes lanes_from(vec a)
{
    return _mm256_cvtps_epi32(a);
}

SIMD_INLINE lanes lanes_add_shifted(lanes a, lanes b, uint32_t n)
{
    return _mm256_or_si256(a, _mm256_slli_epi32(b, (int)n));
}

// Four rows in each 128 bits are turned at once.
SIMD_INLINE void lanes_turn(const char *const *rows, size_t at, lanes out[4])
{
    __m256i a[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        a[i] = _mm256_castsi128_si256(_mm_loadu_si128((const void *)(rows[i] + at)));
        a[i] = _mm256_inserti128_si256(a[i], _mm_loadu_si128((const void *)(rows[i + 4] + at)), 1);
    }
    __m256i low01 = _mm256_unpacklo_epi32(a[0], a[1]), low23 = _mm256_unpacklo_epi32(a[2], a[3]);
    __m256i high01 = _mm256_unpackhi_epi32(a[0], a[1]), high23 = _mm256_unpackhi_epi32(a[2], a[3]);
    out[0] = _mm256_unpacklo_epi64(low01, low23);
    out[1] = _mm256_unpackhi_epi64(low01, low23);
    out[2] = _mm256_unpacklo_epi64(high01, high23);
    out[3] = _mm256_unpackhi_epi64(high01, high23);
}

struct code_map {
    vec step, min;
};

SIMD_INLINE struct code_map code_map_make(uint32_t bits, vec step, vec min)
{
    (void)bits;
    return (struct code_map){step, min};
}

SIMD_INLINE vec code_number(uint32_t bits, lanes a, uint32_t at)
{
    if (at > 0) a = _mm256_srli_epi32(a, (int)at);
    return _mm256_cvtepi32_ps(_mm256_and_si256(a, _mm256_set1_epi32((1 << bits) - 1)));
}

SIMD_INLINE vec code_value(uint32_t bits, lanes a, uint32_t at, struct code_map map)
{
    return vec_fma(map.step, code_number(bits, a, at), map.min);
}

#endif
