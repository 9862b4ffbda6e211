// The largest logits, by as many rounds of one kernel as it takes: each block sorts a slab and
// keeps its best, until one slab is left.
//
//     kernel    block        bytes moved                                 flops
//     best      2048 values  4 a logit, then 8 for each that was kept    -
//
// A round has 67 barriers. A vocabulary of 152,064 takes two rounds for one logit, four for 256.

#include "gpu/logits_cuda.h"

#include "gpu/gpu_grid.h"
#include "gpu/warp.cuh"

typedef unsigned long long key_t64;

// Orders finite values, and of equal ones the first; 0 is below all, and stands for what is not
// finite.
static __device__ __forceinline__ key_t64 key_of(float value, uint32_t id)
{
    if (!(fabsf(value) < INFINITY)) return 0;
    const unsigned bits = __float_as_uint(value + 0.0f); // -0 is 0
    const unsigned order = bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
    return static_cast<key_t64>(order) << 32 | ~id;
}

static __device__ __forceinline__ logit logit_of(key_t64 key)
{
    if (key == 0) return {-INFINITY, -1};
    const unsigned order = static_cast<unsigned>(key >> 32);
    const unsigned bits = order >> 31 != 0 ? order & 0x7fffffffu : ~order;
    return {__uint_as_float(bits), static_cast<int32_t>(~static_cast<unsigned>(key))};
}

// Bitonic, the greatest first.
static __device__ __forceinline__ void sort_slab(key_t64 *keys)
{
    for (unsigned size = 2; size <= GPU_SLAB; size *= 2)
        for (unsigned step = size / 2; step > 0; step /= 2) {
            for (unsigned i = threadIdx.x; i < GPU_SLAB / 2; i += blockDim.x) {
                const unsigned a = 2 * i - (i & (step - 1)), b = a + step;
                const key_t64 first = keys[a], second = keys[b];
                if ((first < second) == ((a & size) == 0)) {
                    keys[a] = second;
                    keys[b] = first;
                }
            }
            __syncthreads(); // a step is done before the next reads what others swapped
        }
}

// Reads logits, or keys that an earlier round kept; writes n_best keys a block, or logits.
struct best_args {
    const float *logits; // NULL: keys
    const key_t64 *keys;
    uint32_t n;
    uint32_t n_best;
    key_t64 *kept;
    logit *best; // NULL: kept
};

__global__ void __launch_bounds__(GPU_SLAB_THREADS) best_kernel(best_args args)
{
    SHARED_ARRAY(key_t64, keys, GPU_SLAB);
    const uint32_t first = blockIdx.x * GPU_SLAB;
    for (uint32_t i = threadIdx.x; i < GPU_SLAB; i += blockDim.x) {
        key_t64 key = 0;
        if (i < args.n - first) {
            const uint32_t at = first + i;
            key = args.logits != NULL ? key_of(args.logits[at], at) : args.keys[at];
        }
        keys[i] = key;
    }
    __syncthreads(); // the slab is there before anyone sorts it
    sort_slab(keys);
    for (uint32_t i = threadIdx.x; i < args.n_best; i += blockDim.x) {
        if (args.best != NULL)
            args.best[i] = logit_of(keys[i]);
        else
            args.kept[static_cast<size_t>(blockIdx.x) * args.n_best + i] = keys[i];
    }
}

// ---- Launching ----------------------------------------------------------------------------------

// What a round keeps of n.
static uint32_t count_kept(uint32_t n, uint32_t n_best)
{
    return gpu_grid_slabs(n).blocks[0] * n_best;
}

size_t logits_scratch_bytes(uint32_t n_logits, uint32_t n_best)
{
    const uint32_t n_kept = count_kept(n_logits, n_best);
    return (static_cast<size_t>(n_kept) + count_kept(n_kept, n_best)) * sizeof(key_t64);
}

cudaError_t logits_best_cuda(const float *logits, uint32_t n_logits, struct logit *best,
                             uint32_t n_best, void *scratch, cudaStream_t stream)
{
    if (n_logits == 0 || n_logits > INT32_MAX || n_best == 0 || n_best > LOGITS_BEST_MAX)
        return cudaErrorInvalidValue;
    key_t64 *const halves[2] = {static_cast<key_t64 *>(scratch),
                                static_cast<key_t64 *>(scratch) + count_kept(n_logits, n_best)};
    best_args args = {logits, NULL, n_logits, n_best, halves[0], NULL};
    for (int round = 1;; round++) {
        const gpu_grid grid = gpu_grid_slabs(args.n);
        if (grid.blocks[0] == 1) args.best = best;
        const cudaError_t error = LAUNCH(best_kernel, grid, stream, args);
        if (error != cudaSuccess || args.best != NULL) return error;
        args = {NULL, args.kept, count_kept(args.n, n_best), n_best, halves[round % 2], NULL};
    }
}
