// Attention for rows of any type, size and place: the path for what the kernels of matrices do not
// take, and in f32 throughout.
//
//     block                       bytes moved                       flops
//     8 rows of a KV head, 4      keys and values of the part once  2 (d_k + d_v) a row and key,
//     parts of the keys, each     a tile, in pieces of 16 bytes     and exp
//     a warp's                    (f32) or 8 where rows allow it
//
// 8 KiB of queries at most come from shared memory.

#include "gpu/attend_plain.cuh"

template <class V, bool is_whole>
__global__ void __launch_bounds__(ATTEND_THREADS, 2) attend_plain_kernel(attend_job asked)
{
    SHARED_ARRAY(float4, query_pieces, PLAIN_ROWS * D_MAX / PIECE);
    SHARED_ARRAY(float, weights, ATTEND_THREADS *PLAIN_ROWS);
    const attend_job job = settled(asked);
    const dense_attend_args &a = job.a;
    const uint32_t lane = threadIdx.x % GPU_WARP, warp = threadIdx.x / GPU_WARP;
    const uint32_t d = (a.d_k + PIECE - 1) / PIECE * PIECE;
    const uint32_t first = blockIdx.x % job.n_tiles * PLAIN_ROWS;
    const uint32_t kv_head = blockIdx.x / job.n_tiles % a.n_kv_heads;
    const uint32_t part = blockIdx.x / job.n_tiles / a.n_kv_heads * ATTEND_WARPS + warp;
    read_queries(job, kv_head, first, reinterpret_cast<float *>(query_pieces), d);
    __syncthreads(); // the queries are there; warps go on alone
    if (part >= job.parts.n) return;

    const char *k = static_cast<const char *>(a.dev_k) + kv_head * a.k_head_stride_bytes;
    const char *v = static_cast<const char *>(a.dev_v) + kv_head * a.v_head_stride_bytes;
    const key_range keys = part_keys(job, part, first, PLAIN_ROWS);
    float *warp_weights = weights + warp * GPU_WARP * PLAIN_ROWS; // [GPU_WARP keys][PLAIN_ROWS]
    gathered all = {};
#pragma unroll
    for (uint32_t r = 0; r < PLAIN_ROWS; r++)
        all.most[r] = -INFINITY;
    for (int begin = keys.begin; begin < keys.end; begin += GPU_WARP) {
        const int key = begin + static_cast<int>(lane);
        float s[PLAIN_ROWS] = {};
        if (key < keys.end)
            score_key<V, is_whole>(s, query_pieces, d, k + key * a.k_row_bytes, a.d_k);
#pragma unroll
        for (uint32_t r = 0; r < PLAIN_ROWS; r++) {
            const key_range seen = row_keys(job, first + r);
            const bool is_seen = key < keys.end && key >= seen.begin && key < seen.end;
            weigh_row(s[r], is_seen, a.scale, r, all);
            warp_weights[lane * PLAIN_ROWS + r] = s[r];
        }
        __syncwarp(); // the weights are there
        for (int j = 0; j < GPU_WARP && begin + j < keys.end; j++)
            add_values<V, is_whole>(v + (begin + j) * a.v_row_bytes, a.d_v,
                                    warp_weights + j * PLAIN_ROWS, all);
        __syncwarp(); // they are read before the next ones are written
    }
    write_rows(job, kv_head, part, first, all);
}

template <class V>
static cudaError_t launch_plain(const attend_job &job, bool is_whole, cudaStream_t stream)
{
    const gpu_grid grid =
        gpu_grid_parts(job.n_tiles, job.a.n_kv_heads,
                       (job.parts.n + ATTEND_WARPS - 1) / ATTEND_WARPS, ATTEND_THREADS, 0);
    if (is_whole) return LAUNCH((attend_plain_kernel<V, true>), grid, stream, job);
    return LAUNCH((attend_plain_kernel<V, false>), grid, stream, job);
}

static bool are_whole(const void *rows, size_t head_stride_bytes, size_t row_bytes, uint32_t d,
                      size_t value_bytes)
{
    const size_t at = reinterpret_cast<uintptr_t>(rows);
    return (at | head_stride_bytes | row_bytes) % (PIECE * value_bytes) == 0 && d % PIECE == 0;
}

cudaError_t attend_plain(const attend_job &job, cudaStream_t stream)
{
    const dense_attend_args &a = job.a;
    const size_t bytes = a.kv_type == FATHOM_TYPE_F32 ? sizeof(float) : sizeof(uint16_t);
    const bool is_whole = are_whole(a.dev_k, a.k_head_stride_bytes, a.k_row_bytes, a.d_k, bytes) &&
                          are_whole(a.dev_v, a.v_head_stride_bytes, a.v_row_bytes, a.d_v, bytes);
    if (a.kv_type == FATHOM_TYPE_F32) return launch_plain<f32_values>(job, is_whole, stream);
    if (a.kv_type == FATHOM_TYPE_F16) return launch_plain<f16_values>(job, is_whole, stream);
    return launch_plain<bf16_values>(job, is_whole, stream);
}
