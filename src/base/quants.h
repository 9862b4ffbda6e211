// The block formats of GGUF's quantised types, taken apart: what the reference dequantises and what
// the packers of every instruction set and device rearrange. Not for inner loops.
//
// Every value is  d * scale[i] * (u - zero) + sign * dmin * min[i]  with unsigned quants u, where
// the sub-scales exist only in the K types and the second term only where has_min.

#ifndef FATHOM_SRC_BASE_QUANTS_H
#define FATHOM_SRC_BASE_QUANTS_H

#include <string.h>

#include "fathom/types.h"

enum { QUANT_BLOCK_MAX = 256 };

struct quant_form {
    uint32_t block_values;
    uint32_t block_bytes;
    uint32_t n_bits;     // of u
    uint32_t zero;       // the u that stands for zero
    uint32_t sub_values; // values that share a sub-scale; block_values where there are none
    bool has_min;        // Q*_1: + dmin;  K types: - dmin * min[i]
};

struct quant_block {
    uint16_t d;    // f16
    uint16_t dmin; // f16; Q*_1: the offset itself
    int8_t scale[16];
    int8_t min[16];
    uint8_t u[QUANT_BLOCK_MAX];
};

// block_values 0: not a quantised type.
static inline struct quant_form quant_form_of(int32_t type)
{
    switch (type) {
    case FATHOM_TYPE_Q4_0:
        return (struct quant_form){32, 18, 4, 8, 32, false};
    case FATHOM_TYPE_Q4_1:
        return (struct quant_form){32, 20, 4, 0, 32, true};
    case FATHOM_TYPE_Q5_0:
        return (struct quant_form){32, 22, 5, 16, 32, false};
    case FATHOM_TYPE_Q5_1:
        return (struct quant_form){32, 24, 5, 0, 32, true};
    case FATHOM_TYPE_Q8_0:
        return (struct quant_form){32, 34, 8, 128, 32, false};
    case FATHOM_TYPE_Q4_K:
        return (struct quant_form){256, 144, 4, 0, 32, true};
    case FATHOM_TYPE_Q5_K:
        return (struct quant_form){256, 176, 5, 0, 32, true};
    case FATHOM_TYPE_Q6_K:
        return (struct quant_form){256, 210, 6, 32, 16, false};
    default:
        return (struct quant_form){0, 0, 0, 0, 0, false};
    }
}

// 12 bytes hold eight 6-bit scales and eight 6-bit minima: the first four of each in the low six
// bits of bytes 0..7, the rest in bytes 8..11 (low four bits) and the top bits of bytes 0..7.
static inline void unpack_k_scales(const uint8_t *packed, struct quant_block *out)
{
    for (uint32_t i = 0; i < 4; i++) {
        out->scale[i] = (int8_t)(packed[i] & 63);
        out->min[i] = (int8_t)(packed[i + 4] & 63);
        out->scale[i + 4] = (int8_t)((packed[i + 8] & 15) | (packed[i] >> 6) << 4);
        out->min[i + 4] = (int8_t)((packed[i + 8] >> 4) | (packed[i + 4] >> 6) << 4);
    }
}

// n low nibbles, then n high nibbles. Kept a loop, which compilers turn into vectors.
static inline void unpack_nibbles(const uint8_t *packed, uint32_t n, uint8_t *u)
{
#pragma GCC unroll 1
    for (uint32_t i = 0; i < n; i++) {
        u[i] = packed[i] & 15;
        u[n + i] = packed[i] >> 4;
    }
}

// Bit i of 32 little-endian bits is the fifth bit of value i. Eight bits at a time: one is kept in
// each byte, moved to the byte's top, and from there to its fifth place.
static inline void unpack_fifth_bits(const uint8_t *packed, uint8_t *u)
{
    for (uint32_t i = 0; i < 4; i++) {
        uint64_t eight;
        uint64_t bits = packed[i] * 0x0101010101010101u & 0x8040201008040201u;
        memcpy(&eight, u + 8 * i, 8);
        eight |= ((bits + 0x7f7f7f7f7f7f7f7fu) & 0x8080808080808080u) >> 3;
        memcpy(u + 8 * i, &eight, 8);
    }
}

static inline void unpack_q4_k(const uint8_t *packed, uint8_t *u)
{
    for (uint32_t i = 0; i < 4; i++)
        unpack_nibbles(packed + i * 32, 32, u + i * 64);
}

// Bit i of byte j is the fifth bit of value 32 * i + j.
static inline void unpack_q5_k(const uint8_t *packed, uint8_t *u)
{
    unpack_q4_k(packed + 32, u);
    for (uint32_t i = 0; i < 8; i++)
        for (uint32_t j = 0; j < 32; j++)
            u[i * 32 + j] |= (uint8_t)(((packed[j] >> i) & 1) << 4);
}

// Two halves of 128 values: 64 bytes of nibbles and 32 bytes of upper bit pairs each.
static inline void unpack_q6_k(const uint8_t *packed, uint8_t *u)
{
    for (uint32_t half = 0; half < 2; half++) {
        const uint8_t *pairs = packed + 128 + half * 32;
        unpack_nibbles(packed + half * 64, 64, u + half * 128);
        for (uint32_t i = 0; i < 4; i++)
            for (uint32_t j = 0; j < 32; j++)
                u[half * 128 + i * 32 + j] |= (uint8_t)(((pairs[j] >> 2 * i) & 3) << 4);
    }
}

static inline void quant_unpack(int32_t type, const void *block, struct quant_block *out)
{
    const uint8_t *bytes = (const uint8_t *)block;
    memcpy(&out->d, bytes + (type == FATHOM_TYPE_Q6_K ? 208 : 0), 2);
    if (quant_form_of(type).has_min) memcpy(&out->dmin, bytes + 2, 2);
    switch (type) {
    case FATHOM_TYPE_Q4_0:
        unpack_nibbles(bytes + 2, 16, out->u);
        break;
    case FATHOM_TYPE_Q4_1:
        unpack_nibbles(bytes + 4, 16, out->u);
        break;
    case FATHOM_TYPE_Q5_0:
        unpack_nibbles(bytes + 6, 16, out->u);
        unpack_fifth_bits(bytes + 2, out->u);
        break;
    case FATHOM_TYPE_Q5_1:
        unpack_nibbles(bytes + 8, 16, out->u);
        unpack_fifth_bits(bytes + 4, out->u);
        break;
    case FATHOM_TYPE_Q8_0: // two's complement to offset 128
        for (uint32_t i = 0; i < 32; i++)
            out->u[i] = bytes[2 + i] ^ 0x80;
        break;
    case FATHOM_TYPE_Q4_K:
        unpack_k_scales(bytes + 4, out);
        unpack_q4_k(bytes + 16, out->u);
        break;
    case FATHOM_TYPE_Q5_K:
        unpack_k_scales(bytes + 4, out);
        unpack_q5_k(bytes + 16, out->u);
        break;
    case FATHOM_TYPE_Q6_K:
        memcpy(out->scale, bytes + 192, 16);
        unpack_q6_k(bytes, out->u);
        break;
    }
}

#endif
