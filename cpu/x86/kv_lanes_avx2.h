// Packed codes with AVX2. What each operation means stands in kv_lanes.h.

#ifndef FATHOM_CPU_X86_KV_LANES_AVX2_H
#define FATHOM_CPU_X86_KV_LANES_AVX2_H

#include "cpu/x86/simd.h"

typedef __m256i lanes;

SIMD_INLINE lanes lanes_bytes(const void *p)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(p));
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

SIMD_INLINE vec code_number(uint32_t bits, lanes a, uint32_t at)
{
    if (at > 0) a = _mm256_srli_epi32(a, (int)at);
    return _mm256_cvtepi32_ps(_mm256_and_si256(a, _mm256_set1_epi32((1 << bits) - 1)));
}

#endif
