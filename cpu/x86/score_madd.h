// Integer tiles of the scores without VNNI: multiply-adds of 16 bits for representatives, of 8 bits
// for rows.
//
// Representatives: a product of 8-bit codes would overflow in pairs, so the codes are widened, and
// the query may as well have 16 bits. 255 * 32767 * 256 channels is below 2^31. Rows: codes of 8
// bits are split in halves of 4, whose pairs of products stay within 2 * 15 * 128, and four sums of
// pairs within 16 bits.

#ifndef FATHOM_CPU_X86_SCORE_MADD_H
#define FATHOM_CPU_X86_SCORE_MADD_H

#include "cpu/x86/score_query.h"

enum {
    REP_WIDE = true,                  // codes of 16 bits in queries for representatives
    REP_VECS = REP_LANES / VEC_LANES, // of a channel of a block
    TILE_BLOCKS = 2 / REP_VECS,       // of representatives at once
    ROW_HEADS = 4,                    // at most, that meet rows at once
};

// sums[head * n_vecs + v]: -128 * sum of codes, then the products; `codes` follow the block's
// steps.
SIMD_INLINE void sum_rep_codes(int n_heads, int n_vecs, const struct score_query *query,
                               const uint8_t *codes, size_t block_bytes, uint32_t d, ivec *sums)
{
    const ivec low = int_fill(0x00ff00ff);
    for (uint32_t c = 0; c < d; c += 4, codes += 4 * REP_LANES) {
        ivec even[2], odd[2];
#pragma GCC unroll 2
        for (int v = 0; v < n_vecs; v++) {
            ivec raw = int_load(codes + v / REP_VECS * block_bytes + v % REP_VECS * 4 * VEC_LANES);
            even[v] = int_and(raw, low);
            odd[v] = int_right8(raw);
        }
#pragma GCC unroll 4
        for (int head = 0; head < n_heads; head++) {
            ivec q_even = int_set1(query[head].codes.wide + c);
            ivec q_odd = int_set1(query[head].codes.wide + c + 2);
#pragma GCC unroll 2
            for (int v = 0; v < n_vecs; v++) {
                ivec sum = int_add32(int_madd16(even[v], q_even), int_madd16(odd[v], q_odd));
                sums[head * n_vecs + v] = int_add32(sums[head * n_vecs + v], sum);
            }
        }
    }
}

// Adds the products of one piece of VEC_LANES rows, words[i] of which holds bytes 4 i .. 4 i + 3,
// to sums[head]. q: the first head's codes of the piece, the others' q_stride apart.
SIMD_INLINE void sum_piece(int bits, int n_heads, const ivec *words, const int8_t *q,
                           size_t q_stride, ivec *sums)
{
    const int part = bits == 8 ? 4 : bits, n_slots = 8 / part; // of a code, in bits
    const ivec mask = int_fill((int32_t)(0x01010101u * ((1u << part) - 1)));
#pragma GCC unroll 4
    for (int slot = 0; slot < n_slots; slot++) {
        const ivec weight = int_fill(bits == 8 && slot == 1 ? 0x00100010 : 0x00010001);
        const int8_t *at = q + (bits == 8 ? 0 : 16 * slot);
        ivec codes[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            codes[i] = int_and(int_right(words[i], slot * part), mask);
#pragma GCC unroll 8
        for (int head = 0; head < n_heads; head++, at += q_stride) {
            ivec sum = int_madd8(codes[0], int_set1(at));
#pragma GCC unroll 3
            for (int i = 1; i < 4; i++)
                sum = int_add16(sum, int_madd8(codes[i], int_set1(at + 4 * i)));
            sums[head] = int_add32(sums[head], int_madd16(sum, weight));
        }
    }
}

#endif
