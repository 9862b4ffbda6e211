// What stands before products: rows of weights as floats, and activations in 16 bits.
//
//     kernel    block           bytes moved                           flops
//     dequant   256 x 8 values  the packed weights, 2 or 4 a value    2 a value
//     convert   256 values      6 a value                             -
//
// Both are bound by memory. A thread of dequant has 8 values, of which there are four in a group of
// quants: neighbours read 8 bytes each and write 16 or 32.

#include "gpu/product_cuda.h"

#include "gpu/product_rows.cuh"
#include "gpu/warp.cuh"

enum { OCTET = 8 };

// ---- Rows as floats -----------------------------------------------------------------------------

// Values 8 i to 8 i + 7 of a packed row.
template <int32_t TYPE>
static __device__ __forceinline__ void
load_octet(const unsigned char *row, const product_layout &layout, size_t i, float (&values)[OCTET])
{
    using form = packed_form<TYPE>;
    if constexpr (form::n_bits == 0) {
        float_values<TYPE>(load_group<TYPE>(row, layout, i), values);
        return;
    }
    const size_t group = i / 4;
    const unsigned quarter = i % 4; // words 2 * quarter and the next
    const unsigned char *highs = row + layout.highs_at;
    const bool in_high = form::n_bits == 8 && quarter >= 2;
    const uint2 low = load_item<uint2>(in_high ? highs : row, 2 * group + quarter % 2);
    unsigned high = 0;
    if constexpr (form::n_bits == 5) high = load_item<unsigned>(highs, group);
    if constexpr (form::n_bits == 6) high = load_item<unsigned>(highs, 2 * group + quarter / 2);
    group_bytes raw = {};
    load_scales<TYPE>(raw, row, layout, group);
    const group_scales scales = scales_of<TYPE>(raw, static_cast<unsigned>(group));
    const float scale = quarter < 2 ? scales.scale[0] : scales.scale[1];
#pragma unroll
    for (unsigned k = 0; k < OCTET; k++) {
        const unsigned word =
            quant_word<TYPE>(k < 4 ? low.x : low.y, high, 2 * quarter + k / 4) >> 8 * (k % 4);
        const int u = form::n_bits == 8 ? static_cast<signed char>(word) : word & 0xff;
        values[k] = scale * static_cast<float>(u - form::zero);
        if constexpr (form::has_min) values[k] += scales.offset;
    }
}

static __device__ __forceinline__ unsigned bits16(int32_t type, float x)
{
    return type == FATHOM_TYPE_F16 ? __half_as_ushort(__float2half_rn(x))
                                   : __bfloat16_as_ushort(__float2bfloat16_rn(x));
}

// To out[at .. at + 8], where that is aligned to as many values.
static __device__ __forceinline__ void store_octet(int32_t type, void *out, size_t at,
                                                   const float (&v)[OCTET])
{
    if (type == FATHOM_TYPE_F32) {
        float4 *vectors = reinterpret_cast<float4 *>(static_cast<float *>(out) + at);
        vectors[0] = {v[0], v[1], v[2], v[3]};
        vectors[1] = {v[4], v[5], v[6], v[7]};
        return;
    }
    unsigned words[OCTET / 2];
#pragma unroll
    for (int i = 0; i < OCTET / 2; i++)
        words[i] = bits16(type, v[2 * i]) | bits16(type, v[2 * i + 1]) << 16;
    *reinterpret_cast<uint4 *>(static_cast<uint16_t *>(out) + at) = {words[0], words[1], words[2],
                                                                     words[3]};
}

static __device__ __forceinline__ void store_value(int32_t type, void *out, size_t at, float value)
{
    if (type == FATHOM_TYPE_F32)
        static_cast<float *>(out)[at] = value;
    else
        static_cast<uint16_t *>(out)[at] = static_cast<uint16_t>(bits16(type, value));
}

template <int32_t TYPE>
__global__ void __launch_bounds__(GPU_VALUE_THREADS)
    dequant_kernel(dequant_args args, product_layout layout)
{
    const size_t octets = (args.n_cols + (size_t)OCTET - 1) / OCTET, n = args.n_rows * octets;
    const unsigned char *weight = static_cast<const unsigned char *>(args.weight);
    for (size_t i = first_item(); i < n; i += item_stride()) {
        const size_t row = i / octets, first = i % octets * OCTET;
        const size_t from = args.ids != NULL ? static_cast<size_t>(args.ids[row]) : row;
        float values[OCTET];
        load_octet<TYPE>(weight + from * layout.row_bytes, layout, first / OCTET, values);
        if (args.n_cols % OCTET == 0) {
            store_octet(args.out_type, args.out, row * args.n_cols + first, values);
            continue;
        }
#pragma unroll
        for (unsigned k = 0; k < OCTET; k++)
            if (first + k < args.n_cols)
                store_value(args.out_type, args.out, row * args.n_cols + first + k, values[k]);
    }
}

// ---- Conversion ---------------------------------------------------------------------------------

__global__ void __launch_bounds__(GPU_VALUE_THREADS)
    convert_kernel(int32_t type, const float *x, void *out, size_t n)
{
    for (size_t i = first_item(); i < n; i += item_stride())
        store_value(type, out, i, x[i]);
}

// ---- Launching ----------------------------------------------------------------------------------

cudaError_t dequant_cuda(const struct dequant_args *args, cudaStream_t stream)
{
    const product_layout layout = product_layout_of(args->type, args->n_cols);
    const bool is_out_known = args->out_type == FATHOM_TYPE_F32 ||
                              args->out_type == FATHOM_TYPE_F16 ||
                              args->out_type == FATHOM_TYPE_BF16;
    if (layout.row_bytes == 0 || !is_out_known) return cudaErrorInvalidValue;
    if (args->n_rows == 0) return cudaSuccess;
    const gpu_grid grid =
        gpu_grid_values(args->n_rows * ((args->n_cols + (size_t)OCTET - 1) / OCTET));
#define LAUNCH_TYPE(name, ...)                                                                     \
    case FATHOM_TYPE_##name:                                                                       \
        return LAUNCH((dequant_kernel<FATHOM_TYPE_##name>), grid, stream, *args, layout);
    switch (args->type) {
        PRODUCT_FORMS(LAUNCH_TYPE)
    default:
        return cudaErrorInvalidValue;
    }
#undef LAUNCH_TYPE
}

cudaError_t convert_cuda(int32_t type, const float *x, void *out, size_t n, cudaStream_t stream)
{
    if (type != FATHOM_TYPE_F16 && type != FATHOM_TYPE_BF16) return cudaErrorInvalidValue;
    if (n == 0) return cudaSuccess;
    return LAUNCH(convert_kernel, gpu_grid_values(n), stream, type, x, out, n);
}
