// Packed codes with AVX-512. What each operation means stands in kv_lanes.h.

#ifndef FATHOM_CPU_X86_KV_LANES_AVX512_H
#define FATHOM_CPU_X86_KV_LANES_AVX512_H

#include "cpu/x86/simd.h"

typedef __m512i lanes;

SIMD_INLINE lanes lanes_bytes(const char *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p));
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

// Four rows in each 128 bits are turned at once.
SIMD_INLINE void lanes_turn(const char *const *rows, size_t at, lanes out[4])
{
    __m512i a[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        a[i] = _mm512_castsi128_si512(_mm_loadu_si128((const void *)(rows[i] + at)));
        a[i] = _mm512_inserti32x4(a[i], _mm_loadu_si128((const void *)(rows[i + 4] + at)), 1);
        a[i] = _mm512_inserti32x4(a[i], _mm_loadu_si128((const void *)(rows[i + 8] + at)), 2);
        a[i] = _mm512_inserti32x4(a[i], _mm_loadu_si128((const void *)(rows[i + 12] + at)), 3);
    }
    __m512i low01 = _mm512_unpacklo_epi32(a[0], a[1]), low23 = _mm512_unpacklo_epi32(a[2], a[3]);
    __m512i high01 = _mm512_unpackhi_epi32(a[0], a[1]), high23 = _mm512_unpackhi_epi32(a[2], a[3]);
    out[0] = _mm512_unpacklo_epi64(low01, low23);
    out[1] = _mm512_unpackhi_epi64(low01, low23);
    out[2] = _mm512_unpacklo_epi64(high01, high23);
    out[3] = _mm512_unpackhi_epi64(high01, high23);
}

// Codes of 4 or 2 bits index a table of 16 floats: the lookup heeds the lowest 4 bits only, so
// nothing needs to be masked or converted; for 2 bits the table repeats.
struct code_map {
    vec table;
    vec step, min;
};

SIMD_INLINE vec table_codes(uint32_t bits)
{
    if (bits == 2) return _mm512_setr_ps(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
    return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

SIMD_INLINE struct code_map code_map_make(uint32_t bits, vec step, vec min)
{
    return (struct code_map){vec_fma(step, table_codes(bits), min), step, min};
}

SIMD_INLINE vec code_number(uint32_t bits, lanes a, uint32_t at)
{
    if (at > 0) a = _mm512_srli_epi32(a, at);
    if (bits != 8) return _mm512_permutexvar_ps(a, table_codes(bits));
    return _mm512_cvtepi32_ps(_mm512_and_si512(a, _mm512_set1_epi32(255)));
}

SIMD_INLINE vec code_value(uint32_t bits, lanes a, uint32_t at, struct code_map map)
{
    if (bits == 8) return vec_fma(map.step, code_number(bits, a, at), map.min);
    if (at > 0) a = _mm512_srli_epi32(a, at);
    return _mm512_permutexvar_ps(a, map.table);
}

#endif
