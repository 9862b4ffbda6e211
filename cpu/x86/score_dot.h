// Integer tiles of the scores with VNNI: sums of four products of unsigned codes and signed 8-bit
// queries in one instruction. 255 * 127 * 256 channels is below 2^24, so that f32 holds the sums.

#ifndef FATHOM_CPU_X86_SCORE_DOT_H
#define FATHOM_CPU_X86_SCORE_DOT_H

#include "cpu/x86/score_query.h"

enum {
    REP_WIDE = false, // codes of 8 bits in queries for representatives
    REP_VECS = 1,     // of a channel of a block
    TILE_BLOCKS = 2,  // of representatives at once, so that a broadcast serves two products
    ROW_HEADS = 8,    // at most, that meet rows at once
};

// sums[head * n_vecs + v]: -128 * sum of codes, then the products; `codes` follow the block's
// steps.
SIMD_INLINE void sum_rep_codes(int n_heads, int n_vecs, const struct score_query *query,
                               const uint8_t *codes, size_t block_bytes, uint32_t d, ivec *sums)
{
    for (uint32_t c = 0; c < d; c += 4, codes += 4 * REP_LANES) {
        ivec values[TILE_BLOCKS];
#pragma GCC unroll 2
        for (int v = 0; v < n_vecs; v++)
            values[v] = int_load(codes + v * block_bytes);
#pragma GCC unroll 4
        for (int head = 0; head < n_heads; head++) {
            ivec q = int_set1(query[head].codes.narrow + c);
#pragma GCC unroll 2
            for (int v = 0; v < n_vecs; v++)
                sums[head * n_vecs + v] = int_dot8(sums[head * n_vecs + v], values[v], q);
        }
    }
}

// Adds the products of one piece of VEC_LANES rows, words[i] of which holds bytes 4 i .. 4 i + 3,
// to sums[head]. q: the first head's codes of the piece, the others' q_stride apart.
SIMD_INLINE void sum_piece(int bits, int n_heads, const ivec *words, const int8_t *q,
                           size_t q_stride, ivec *sums)
{
    const int n_slots = 8 / bits;
    const ivec mask = int_fill((int32_t)(0x01010101u * ((1u << bits) - 1)));
    ivec odd[ROW_HEADS]; // a second chain of sums: each product waits for the one before it
#pragma GCC unroll 8
    for (int head = 0; head < n_heads; head++)
        odd[head] = int_fill(0);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
#pragma GCC unroll 4
        for (int slot = 0; slot < n_slots; slot++) {
            ivec codes = bits == 8 ? words[i] : int_and(int_right(words[i], slot * bits), mask);
            ivec *chain = slot % 2 == 0 ? sums : odd;
#pragma GCC unroll 8
            for (int head = 0; head < n_heads; head++)
                chain[head] =
                    int_dot8(chain[head], codes, int_set1(q + head * q_stride + 16 * slot + 4 * i));
        }
    if (bits == 8) return;
#pragma GCC unroll 8
    for (int head = 0; head < n_heads; head++)
        sums[head] = int_add32(sums[head], odd[head]);
}

#endif
