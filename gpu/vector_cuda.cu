// The vector kernels on the device: RMSNorm, rotary, SwiGLU, addition.
//
//     kernel    block                 bytes moved, of f32            flops
//     rmsnorm   a row, <= 1024        8 a value (x stays in L1)      3 a value
//     rope      256 pairs             16 a pair, + 8 of angles       6 a pair
//     swiglu    256 values            12 a value                     4 a value, and exp
//     add       a row, <= 1024        8 a value (y stays in L2)      1 a value
//
// All are bound by memory, and none is large beside the products of a step; values are read one by
// one, which neighbouring threads do together. No pointer is aligned to more than a float.

#include "gpu/vector_cuda.h"

#include "fathom/fathom.h"
#include "gpu/dialect.cuh"
#include "gpu/warp.cuh"

__global__ void __launch_bounds__(GPU_ROW_THREADS_MAX) rmsnorm_kernel(rmsnorm_args args)
{
    for (size_t row = blockIdx.x; row < args.n_rows; row += gridDim.x) {
        const float *x = args.x + row * args.n_cols;
        float *out = args.out + row * args.n_cols;
        float sum = 0;
        for (size_t c = threadIdx.x; c < args.n_cols; c += blockDim.x)
            sum = fmaf(x[c], x[c], sum);
        sum = block_sum(sum);
        const float factor = 1 / sqrtf(sum / (float)args.n_cols + args.eps);
        for (size_t c = threadIdx.x; c < args.n_cols; c += blockDim.x)
            out[c] = x[c] * factor * args.weight[c];
    }
}

// One thread turns one pair of one head of one token.
__global__ void __launch_bounds__(GPU_VALUE_THREADS) rope_kernel(rope_args args)
{
    const uint32_t n_pairs = args.n_rot / 2;
    const size_t n = (size_t)args.n_tokens * args.n_heads * n_pairs;
    for (size_t i = first_item(); i < n; i += item_stride()) {
        const size_t pair = i % n_pairs, head = i / n_pairs, token = head / args.n_heads;
        const bool adjacent = args.pairing == FATHOM_ROPE_ADJACENT;
        float *a = args.x + head * args.d + (adjacent ? 2 * pair : pair);
        float *b = adjacent ? a + 1 : a + n_pairs;
        const float *angle = args.cos_sin + 2 * (token * n_pairs + pair);
        const float c = angle[0], s = angle[1], old = *a;
        *a = fmaf(old, c, -*b * s);
        *b = fmaf(old, s, *b * c);
    }
}

__global__ void __launch_bounds__(GPU_VALUE_THREADS)
    swiglu_kernel(const float *gate, const float *up, float *out, size_t n)
{
    for (size_t i = first_item(); i < n; i += item_stride()) {
        // exp(-gate) would overflow where the result is not yet 0.
        const float x = gate[i], e = expf(-fabsf(x));
        out[i] = (x < 0 ? x * e : x) / (1 + e) * up[i];
    }
}

__global__ void __launch_bounds__(GPU_ROW_THREADS_MAX)
    add_kernel(float *x, const float *y, size_t n_rows, size_t n_cols)
{
    for (size_t row = blockIdx.x; row < n_rows; row += gridDim.x)
        for (size_t c = threadIdx.x; c < n_cols; c += blockDim.x)
            x[row * n_cols + c] += y[c];
}

cudaError_t rmsnorm_cuda(const struct rmsnorm_args *args, cudaStream_t stream)
{
    if (args->n_rows == 0 || args->n_cols == 0) return cudaSuccess;
    return LAUNCH(rmsnorm_kernel, gpu_grid_rows(args->n_rows, args->n_cols), stream, *args);
}

cudaError_t rope_cuda(const struct rope_args *args, cudaStream_t stream)
{
    const size_t n_pairs = (size_t)args->n_tokens * args->n_heads * (args->n_rot / 2);
    if (n_pairs == 0 || args->pairing == FATHOM_ROPE_NONE) return cudaSuccess;
    return LAUNCH(rope_kernel, gpu_grid_values(n_pairs), stream, *args);
}

cudaError_t swiglu_cuda(const float *gate, const float *up, float *out, size_t n,
                        cudaStream_t stream)
{
    if (n == 0) return cudaSuccess;
    return LAUNCH(swiglu_kernel, gpu_grid_values(n), stream, gate, up, out, n);
}

cudaError_t add_cuda(float *x, const float *y, size_t n_rows, size_t n_cols, cudaStream_t stream)
{
    if (n_rows == 0 || n_cols == 0) return cudaSuccess;
    return LAUNCH(add_kernel, gpu_grid_rows(n_rows, n_cols), stream, x, y, n_rows, n_cols);
}
