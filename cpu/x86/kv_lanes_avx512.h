// Packed codes with AVX-512. What each operation means stands in kv_lanes.h.

#ifndef FATHOM_CPU_X86_KV_LANES_AVX512_H
#define FATHOM_CPU_X86_KV_LANES_AVX512_H

#include "cpu/x86/simd.h"

typedef __m512i lanes;

SIMD_INLINE lanes lanes_bytes(const void *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(p));
}

SIMD_INLINE void lanes_put_bytes(char *p, lanes a)
{
    _mm_storeu_si128((void *)p, _mm512_cvtepi32_epi8(a));
}

SIMD_INLINE lanes lanes_zero(void)
{
    return _mm512_setzero_si512();
}

SIMD_INLINE lanes lanes_from(vec a)
{
    return _mm512_cvtps_epi32(a);
}

SIMD_INLINE lanes lanes_add_shifted(lanes a, lanes b, uint32_t n)
{
    return _mm512_or_si512(a, _mm512_slli_epi32(b, n));
}

// Codes of 4 or 2 bits index a table of 16 floats: the lookup heeds the lowest 4 bits only, so
// nothing needs to be masked or converted; for 2 bits the table repeats.
SIMD_INLINE vec table_codes(uint32_t bits)
{
    if (bits == 2) return _mm512_setr_ps(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
    return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

SIMD_INLINE vec code_number(uint32_t bits, lanes a, uint32_t at)
{
    if (at > 0) a = _mm512_srli_epi32(a, at);
    if (bits != 8) return _mm512_permutexvar_ps(a, table_codes(bits));
    return _mm512_cvtepi32_ps(_mm512_and_si512(a, _mm512_set1_epi32(255)));
}

#endif
