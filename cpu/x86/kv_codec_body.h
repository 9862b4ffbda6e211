// Codes of K and V rows, for whichever instruction set includes it: the same bits as
// cpu/ref/kv_codec_ref.c makes, which says how they are defined.
//
// A row of V is encoded and decoded as one of K, with step and min spread over its channels.

#ifndef FATHOM_CPU_X86_KV_CODEC_BODY_H
#define FATHOM_CPU_X86_KV_CODEC_BODY_H

#include "cpu/x86/kv_lanes.h"

#include <string.h>

#include "src/iface/kernels.h"

static const float half_max = 65504;
enum { CODEC_D_MAX = 256, PIECE_LANES = 16 };

SIMD_INLINE float top_code(uint32_t bits)
{
    return (float)((1u << bits) - 1);
}

// Adding 0 makes a +0 of a -0: which of them is the least depends on the order.
static void range_keys(uint32_t bits, const float *x, size_t n_rows, uint32_t d, float *k_min,
                       float *k_step)
{
    for (uint32_t c = 0; c < d && n_rows > 0; c += VEC_LANES) {
        vec min = vec_load_n(x + c, d - c), max = min;
        for (size_t row = 1; row < n_rows; row++) {
            vec values = vec_load_n(x + row * d + c, d - c);
            min = vec_min(min, values);
            max = vec_max(max, values);
        }
        min = vec_add(min, vec_zero());
        vec range = vec_add(vec_sub(max, min), vec_zero());
        vec_store_n(k_min + c, min, d - c);
        vec_store_n(k_step + c, vec_div(range, vec_set1(top_code(bits))), d - c);
    }
}

// The nearest codes of the channels from c on; 0 where the step is 0 and past d.
SIMD_INLINE lanes find_codes(uint32_t bits, const float *x, const float *min, const float *step,
                             uint32_t c, uint32_t d)
{
    vec steps = vec_load_n(step + c, d - c);
    vec code = vec_sub(vec_load_n(x + c, d - c), vec_load_n(min + c, d - c));
    code = vec_round(vec_div(code, steps));
    code = vec_min(vec_max(code, vec_zero()), vec_set1(top_code(bits)));
    return lanes_from(vec_above(steps, vec_zero(), code, vec_zero()));
}

SIMD_INLINE void encode_bits(uint32_t bits, const float *x, const float *min, const float *step,
                             uint32_t d, char *codes)
{
    for (uint32_t piece = 0; piece < d; piece += 128 / bits, codes += KV_PIECE_BYTES)
        for (uint32_t i = 0; i < PIECE_LANES; i += VEC_LANES) {
            lanes packed = lanes_zero();
            for (uint32_t slot = 0; slot < 8 / bits; slot++) {
                uint32_t c = piece + slot * PIECE_LANES + i;
                if (c >= d) break;
                packed =
                    lanes_add_shifted(packed, find_codes(bits, x, min, step, c, d), slot * bits);
            }
            lanes_put_bytes(codes + i, packed);
        }
}

SIMD_INLINE void decode_bits(uint32_t bits, const char *codes, const float *min, const float *step,
                             uint32_t d, float *x)
{
    for (uint32_t piece = 0; piece < d; piece += 128 / bits, codes += KV_PIECE_BYTES)
        for (uint32_t i = 0; i < PIECE_LANES; i += VEC_LANES) {
            lanes packed = lanes_bytes(codes + i);
            for (uint32_t slot = 0; slot < 8 / bits; slot++) {
                uint32_t c = piece + slot * PIECE_LANES + i;
                if (c >= d) break;
                vec steps = vec_load_n(step + c, d - c), mins = vec_load_n(min + c, d - c);
                vec_store_n(x + c, vec_fma(steps, code_number(bits, packed, slot * bits), mins),
                            d - c);
            }
        }
}

static void encode_key(uint32_t bits, const float *x, const float *k_min, const float *k_step,
                       uint32_t d, void *row)
{
    if (bits == 8) encode_bits(8, x, k_min, k_step, d, row);
    if (bits == 4) encode_bits(4, x, k_min, k_step, d, row);
    if (bits == 2) encode_bits(2, x, k_min, k_step, d, row);
}

static void decode_key(uint32_t bits, const void *row, const float *k_min, const float *k_step,
                       uint32_t d, float *x)
{
    if (bits == 8) decode_bits(8, row, k_min, k_step, d, x);
    if (bits == 4) decode_bits(4, row, k_min, k_step, d, x);
    if (bits == 2) decode_bits(2, row, k_min, k_step, d, x);
}

// Step and min of a group of n values: f16, such that the range of the values, within f16's, stays
// inside that of the codes.
SIMD_INLINE void scale_group(uint32_t bits, const float *x, uint32_t n, uint16_t halves[2])
{
    vec min = vec_set1(x[0]), max = min;
    uint32_t c = 0;
    for (; c + VEC_LANES <= n; c += VEC_LANES) {
        min = vec_min(min, vec_load(x + c));
        max = vec_max(max, vec_load(x + c));
    }
    for (; c < n; c++) {
        min = vec_min(min, vec_set1(x[c]));
        max = vec_max(max, vec_set1(x[c]));
    }
    float low = -vec_hmax(vec_sub(vec_zero(), min)) + 0.0f, high = vec_hmax(max);
    low = low < -half_max ? -half_max : low > half_max ? half_max : low;
    halves[1] = _cvtss_sh(low, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    float range = (high > half_max ? half_max : high) - _cvtsh_ss(halves[1]);
    range = (range < 0 ? 0 : range) / top_code(bits) + 0.0f;
    range = range > half_max ? half_max : range;
    halves[0] = _cvtss_sh(range, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
}

// Spreads step and min of the groups over the channels.
SIMD_INLINE void spread_scales(const char *row, uint32_t d, float *min, float *step)
{
    for (uint32_t c = 0; c < d; c += VEC_LANES) {
        uint16_t halves[2];
        memcpy(halves, row + c / KV_GROUP * sizeof halves, sizeof halves);
        vec_store(step + c, vec_set1(_cvtsh_ss(halves[0])));
        vec_store(min + c, vec_set1(_cvtsh_ss(halves[1])));
    }
}

static void encode_value(uint32_t bits, const float *x, uint32_t d, void *row)
{
    float min[CODEC_D_MAX], step[CODEC_D_MAX];
    char *codes = row;
    for (uint32_t c = 0; c < d; c += KV_GROUP, codes += 2 * sizeof(uint16_t)) {
        uint16_t halves[2];
        scale_group(bits, x + c, d - c < KV_GROUP ? d - c : KV_GROUP, halves);
        memcpy(codes, halves, sizeof halves);
    }
    spread_scales(row, d, min, step);
    encode_key(bits, x, min, step, d, codes);
}

static void decode_value(uint32_t bits, const void *row, uint32_t d, float *x)
{
    float min[CODEC_D_MAX], step[CODEC_D_MAX];
    spread_scales(row, d, min, step);
    const char *codes = (const char *)row + (d + KV_GROUP - 1) / KV_GROUP * 2 * sizeof(uint16_t);
    decode_key(bits, codes, min, step, d, x);
}

SIMD_INLINE void fill_codec_entries(struct kernel_table *table)
{
    table->kv.k_range = range_keys;
    table->kv.k_encode = encode_key;
    table->kv.v_encode = encode_value;
    table->kv.k_decode = decode_key;
    table->kv.v_decode = decode_value;
}

#endif
