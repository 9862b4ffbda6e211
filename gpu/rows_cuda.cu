// Rows of a cache stored, and partials of attention merged.
//
//     kernel    block                      bytes moved                            flops
//     store     256 values                 4 a value, 8 of angles a pair, and     3 a value
//                                          the stored one
//     merge     a row, or 8 of few parts   4 (d_v + 1) a part and row, the result 2 a value
//
// Both are bound by memory. A row is turned and stored a value to a thread: neighbours read and
// write together, and the partner of a pair comes from the first-level cache.

#include "gpu/attend.cuh"

static __device__ __forceinline__ void store_value(int32_t type, void *row, uint32_t c, float x)
{
    if (type == FATHOM_TYPE_F32)
        static_cast<float *>(row)[c] = x;
    else if (type == FATHOM_TYPE_F16)
        static_cast<__half *>(row)[c] = __float2half_rn(x);
    else
        static_cast<__nv_bfloat16 *>(row)[c] = __float2bfloat16_rn(x);
}

__global__ void __launch_bounds__(GPU_VALUE_THREADS)
    store_rows_kernel(store_rows_args args, const uint32_t *dev_row)
{
    const size_t n = static_cast<size_t>(args.n_tokens) * args.n_heads * args.d;
    const rotation by = {args.dev_cos_sin, args.n_rot, args.pairing};
    const size_t first = dev_row == NULL ? args.row : *dev_row;
    for (size_t i = first_item(); i < n; i += item_stride()) {
        const size_t vector = i / args.d, token = vector / args.n_heads;
        const uint32_t c = static_cast<uint32_t>(i % args.d);
        char *row = static_cast<char *>(args.dev_rows) +
                    vector % args.n_heads * args.head_stride_bytes +
                    (first + token) * args.row_bytes;
        store_value(args.type, row, c, turn_value(by, args.dev_x + vector * args.d, token, c));
    }
}

// ---- Merging ------------------------------------------------------------------------------------

enum { MERGE_WARPS = 8, MERGE_SLICE = 256, LANE_VALUES = MERGE_SLICE / GPU_WARP };
enum { FEW_PARTS = 4 }; // so few are one warp's work

// The weights of a row's parts are exp(lse - reference) / sum.
struct row_weights {
    float reference, sum;
};

static __device__ __forceinline__ float part_weight(float lse, float reference)
{
    return lse == -INFINITY ? 0 : expf(lse - reference);
}

// By each warp for itself. NaN comes through the sum.
static __device__ __forceinline__ row_weights weigh_parts(const merge_args &a, size_t row)
{
    const uint32_t lane = threadIdx.x % GPU_WARP;
    float most = -INFINITY, sum = 0;
    for (uint32_t p = lane; p < a.n_parts; p += GPU_WARP)
        most = fmaxf(most, a.lse[p * a.part_stride_lse + row]);
    most = warp_max(most);
    if (most == -INFINITY) most = 0;
    for (uint32_t p = lane; p < a.n_parts; p += GPU_WARP)
        sum += part_weight(a.lse[p * a.part_stride_lse + row], most);
    return {most, warp_sum(sum)};
}

// row_warps warps have a row; each sums every row_warps-th part, and the first adds these up.
__global__ void __launch_bounds__(MERGE_WARPS *GPU_WARP)
    merge_kernel(merge_args a, uint32_t row_warps)
{
    SHARED_ARRAY(float, sums, MERGE_WARPS *MERGE_SLICE);
    const uint32_t lane = threadIdx.x % GPU_WARP, warp = threadIdx.x / GPU_WARP;
    const uint32_t place = warp % row_warps, block_rows = MERGE_WARPS / row_warps;
    for (size_t first = static_cast<size_t>(blockIdx.x) * block_rows; first < a.n_rows;
         first += static_cast<size_t>(gridDim.x) * block_rows) {
        const size_t row = first + warp / row_warps;
        row_weights weights = {0, 0};
        float o[LANE_VALUES] = {};
        if (row < a.n_rows) weights = weigh_parts(a, row);
        for (uint32_t p = place; p < a.n_parts && row < a.n_rows; p += row_warps) {
            const float lse = a.lse[p * a.part_stride_lse + row];
            const float *part = a.o + p * a.part_stride_o + row * a.d_v;
            if (lse == -INFINITY) continue;
            const float weight = part_weight(lse, weights.reference) / weights.sum;
#pragma unroll
            for (uint32_t i = 0; i < LANE_VALUES; i++)
                if (lane + GPU_WARP * i < a.d_v)
                    o[i] = fmaf(weight, part[lane + GPU_WARP * i], o[i]);
        }
#pragma unroll
        for (uint32_t i = 0; i < LANE_VALUES; i++)
            sums[warp * MERGE_SLICE + GPU_WARP * i + lane] = o[i];
        __syncthreads(); // all sums are there, and all parts read, before the result is written
        if (place == 0 && row < a.n_rows) {
            for (uint32_t c = lane; c < a.d_v; c += GPU_WARP) {
                float sum = 0;
                for (uint32_t w = 0; w < row_warps; w++)
                    sum += sums[(warp + w) * MERGE_SLICE + c];
                a.out_o[row * a.d_v + c] = sum;
            }
            if (lane == 0 && a.out_lse != NULL)
                a.out_lse[row] =
                    weights.sum == 0 ? -INFINITY : weights.reference + logf(weights.sum);
        }
        __syncthreads(); // they are read before the next row's are written
    }
}

cudaError_t store_rows_cuda(const struct store_rows_args *args, const uint32_t *dev_row,
                            cudaStream_t stream)
{
    const size_t n = (size_t)args->n_tokens * args->n_heads * args->d;
    if (n == 0) return cudaSuccess;
    return LAUNCH(store_rows_kernel, gpu_grid_values(n), stream, *args, dev_row);
}

cudaError_t merge_cuda(const struct merge_args *args, cudaStream_t stream)
{
    const uint32_t row_warps = args->n_parts <= FEW_PARTS ? 1 : MERGE_WARPS;
    if (args->n_rows == 0) return cudaSuccess;
    // A warp for each thread of a value: the grid is as large as for that many.
    const gpu_grid grid = gpu_grid_values(args->n_rows * row_warps * GPU_WARP);
    return LAUNCH(merge_kernel, grid, stream, *args, row_warps);
}
