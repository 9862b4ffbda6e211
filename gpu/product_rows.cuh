// Groups of packed rows (gpu/product_rows.h) on the device: how a thread loads one and takes it
// apart.

#ifndef FATHOM_GPU_PRODUCT_ROWS_CUH
#define FATHOM_GPU_PRODUCT_ROWS_CUH

#include "gpu/product_rows.h"

#include "fathom/types.h"
#include "gpu/dialect.cuh"

template <int32_t TYPE>
struct packed_form;

#define PACKED_FORM(name, group, high, scale, sub, block, bits, zero_, min)                        \
    template <>                                                                                    \
    struct packed_form<FATHOM_TYPE_##name> {                                                       \
        static constexpr int group_values = group, high_bytes = high, scale_bytes = scale,         \
                             sub_bytes = sub, block_groups = block, n_bits = bits, zero = zero_;   \
        static constexpr bool has_min = min;                                                       \
    };
PRODUCT_FORMS(PACKED_FORM)
#undef PACKED_FORM

// What the planes have of a group, as much as the type has, and zeros.
struct group_bytes {
    uint4 low, high, scales;
    unsigned subs;
};

// Item i of a plane. Weights are read once, and should not push out what is read again.
template <class T>
static __device__ __forceinline__ T load_item(const unsigned char *plane, size_t i)
{
    return __ldcs(reinterpret_cast<const T *>(plane) + i);
}

template <int32_t TYPE>
static __device__ __forceinline__ void load_scales(group_bytes &raw, const unsigned char *row,
                                                   const product_layout &layout, size_t group)
{
    using form = packed_form<TYPE>;
    const unsigned char *plane = row + layout.scales_at;
    const size_t block = group / form::block_groups;
    if constexpr (form::scale_bytes == 16) raw.scales = load_item<uint4>(plane, block);
    if constexpr (form::scale_bytes == 4) raw.scales.x = load_item<unsigned>(plane, block);
    if constexpr (form::scale_bytes == 2) raw.scales.x = load_item<unsigned short>(plane, block);
    if constexpr (form::sub_bytes == 2)
        raw.subs = load_item<unsigned short>(row + layout.subs_at, group);
}

template <int32_t TYPE>
static __device__ __forceinline__ group_bytes load_group(const unsigned char *row,
                                                         const product_layout &layout, size_t group)
{
    using form = packed_form<TYPE>;
    const unsigned char *highs = row + layout.highs_at;
    group_bytes raw = {};
    raw.low = load_item<uint4>(row, group);
    if constexpr (form::high_bytes == 16) raw.high = load_item<uint4>(highs, group);
    if constexpr (form::high_bytes == 8) {
        const uint2 pairs = load_item<uint2>(highs, group);
        raw.high.x = pairs.x;
        raw.high.y = pairs.y;
    }
    if constexpr (form::high_bytes == 4) raw.high.x = load_item<unsigned>(highs, group);
    load_scales<TYPE>(raw, row, layout, group);
    return raw;
}

static __device__ __forceinline__ float half_bits(unsigned bits)
{
    return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

// The upper half of a float's bits: a bf16.
static __device__ __forceinline__ float upper_bits(unsigned bits)
{
    return __uint_as_float(bits & 0xffff0000u);
}

// ---- Quants -------------------------------------------------------------------------------------

// A value is scale * (u - zero) + offset; the first and the last 16 of a group have scales of their
// own. They are exact: at most 11 bits times 8.
struct group_scales {
    float scale[2], offset;
};

template <int32_t TYPE>
static __device__ __forceinline__ group_scales scales_of(const group_bytes &raw, unsigned group)
{
    using form = packed_form<TYPE>;
    const float d = half_bits(raw.scales.x);
    if constexpr (form::scale_bytes == 16) { // 6 bits each, as unpack_k_scales has them
        const unsigned sub = group % 8, shift = 8 * (sub % 4);
        const unsigned a = raw.scales.y >> shift, b = raw.scales.z >> shift;
        const unsigned c = raw.scales.w >> shift;
        const unsigned scale = sub < 4 ? a & 63 : (c & 15) | (a >> 2 & 48);
        const unsigned min = sub < 4 ? b & 63 : (c >> 4 & 15) | (b >> 2 & 48);
        const float both = d * static_cast<float>(scale);
        return {{both, both}, -(half_bits(raw.scales.x >> 16) * static_cast<float>(min))};
    }
    if constexpr (form::sub_bytes == 2)
        return {{d * static_cast<float>(static_cast<signed char>(raw.subs)),
                 d * static_cast<float>(static_cast<signed char>(raw.subs >> 8))},
                0};
    return {{d, d}, form::has_min ? half_bits(raw.scales.x >> 16) : 0};
}

// u[j], from the words of the planes that have its bits; of 8 bits that is one, the first.
template <int32_t TYPE>
static __device__ __forceinline__ unsigned quant_word(unsigned low, unsigned high, unsigned j)
{
    using form = packed_form<TYPE>;
    if constexpr (form::n_bits == 8) return low;
    const unsigned u = (j < 4 ? low : low >> 4) & 0x0f0f0f0fu;
    if constexpr (form::n_bits == 5) return u | (high >> j & 0x01010101u) << 4;
    if constexpr (form::n_bits == 6) return u | (high >> 2 * (j % 4) & 0x03030303u) << 4;
    return u;
}

// All eight words of a group.
template <int32_t TYPE>
static __device__ __forceinline__ void quant_words(const group_bytes &raw, unsigned (&u)[8])
{
    using form = packed_form<TYPE>;
    const unsigned low[4] = {raw.low.x, raw.low.y, raw.low.z, raw.low.w};
    const unsigned high[4] = {raw.high.x, raw.high.y, raw.high.z, raw.high.w};
#pragma unroll
    for (unsigned j = 0; j < 8; j++)
        if constexpr (form::n_bits == 8)
            u[j] = j < 4 ? low[j] : high[j - 4];
        else
            u[j] = quant_word<TYPE>(low[j % 4], high[form::n_bits == 6 ? j / 4 : 0], j);
}

// ---- Floats -------------------------------------------------------------------------------------

template <int32_t TYPE>
static __device__ __forceinline__ void float_values(const group_bytes &raw, float (&values)[8])
{
    const unsigned words[8] = {raw.low.x,  raw.low.y,  raw.low.z,  raw.low.w,
                               raw.high.x, raw.high.y, raw.high.z, raw.high.w};
#pragma unroll
    for (int i = 0; i < 8; i++)
        if constexpr (TYPE == FATHOM_TYPE_F32)
            values[i] = __uint_as_float(words[i]);
        else if constexpr (TYPE == FATHOM_TYPE_F16)
            values[i] = half_bits(words[i / 2] >> 16 * (i % 2));
        else
            values[i] = upper_bits(i % 2 == 0 ? words[i / 2] << 16 : words[i / 2]);
}

#endif
