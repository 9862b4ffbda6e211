// What the threads of a warp and of a block do together: written once, here.

#ifndef FATHOM_GPU_WARP_CUH
#define FATHOM_GPU_WARP_CUH

#include "gpu/dialect.cuh"

// This thread's first item of a range over the whole grid, and the way to its next.
static __device__ __forceinline__ size_t first_item()
{
    return (size_t)blockIdx.x * blockDim.x + threadIdx.x;
}

static __device__ __forceinline__ size_t item_stride()
{
    return (size_t)gridDim.x * blockDim.x;
}

static __device__ __forceinline__ float warp_sum(float x)
{
    for (int bit = GPU_WARP / 2; bit > 0; bit /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, bit);
    return x;
}

// The greatest; NaN takes no part.
static __device__ __forceinline__ float warp_max(float x)
{
    for (int bit = GPU_WARP / 2; bit > 0; bit /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, bit));
    return x;
}

// The sum over all threads of the block, the same bits for each. Blocks are whole warps.
static __device__ __forceinline__ float block_sum(float x)
{
    SHARED_ARRAY(float, parts, GPU_ROW_THREADS_MAX / GPU_WARP);
    const unsigned lane = threadIdx.x % GPU_WARP, warp = threadIdx.x / GPU_WARP;
    x = warp_sum(x);
    if (lane == 0) parts[warp] = x;
    __syncthreads(); // the parts are there before anyone reads them
    x = warp_sum(lane < blockDim.x / GPU_WARP ? parts[lane] : 0);
    __syncthreads(); // they are read before the next sum writes them
    return x;
}

#endif
