// Attention over runs of plain rows of any type and size: the path for what runs_decode_cuda.cu
// does not take, and in f32 throughout.
//
//     block                       bytes moved                       flops
//     8 rows of a KV head, 4      keys and values of the part once  2 (d_k + d_v) a row and key,
//     parts of the keys, each     a tile, in pieces of 4 values     and exp
//     a warp's                    where rows allow it; 24 a run
//
// As attend_plain_cuda.cu, but that a lane looks up where its key and value lie.

#include "gpu/attend_plain.cuh"
#include "gpu/runs.cuh"

template <class V, bool is_whole>
__global__ void __launch_bounds__(ATTEND_THREADS, 2) runs_plain_kernel(runs_job runs)
{
    SHARED_ARRAY(float4, query_pieces, PLAIN_ROWS * D_MAX / PIECE);
    SHARED_ARRAY(float, weights, ATTEND_THREADS *PLAIN_ROWS);
    SHARED_ARRAY(const char *, values, ATTEND_THREADS);
    const attend_job &job = runs.job;
    const dense_attend_args &a = job.a;
    const uint32_t lane = threadIdx.x % GPU_WARP, warp = threadIdx.x / GPU_WARP;
    const uint32_t d = (a.d_k + PIECE - 1) / PIECE * PIECE;
    const uint32_t first = blockIdx.x % job.n_tiles * PLAIN_ROWS;
    const uint32_t kv_head = blockIdx.x / job.n_tiles % a.n_kv_heads;
    const uint32_t part = blockIdx.x / job.n_tiles / a.n_kv_heads * ATTEND_WARPS + warp;
    read_queries(job, kv_head, first, reinterpret_cast<float *>(query_pieces), d);
    __syncthreads(); // the queries are there; warps go on alone
    if (part >= job.parts.n) return;

    const runs_head_cuda head = runs.dev_heads[kv_head];
    const key_range keys = run_keys(runs, head, part);
    float *warp_weights = weights + warp * GPU_WARP * PLAIN_ROWS; // [GPU_WARP keys][PLAIN_ROWS]
    const char **warp_values = values + warp * GPU_WARP;
    run_cursor cursor = {};
    gathered all = {};
#pragma unroll
    for (uint32_t r = 0; r < PLAIN_ROWS; r++)
        all.most[r] = -INFINITY;
    if (keys.begin < keys.end) cursor = open_cursor(head, keys.begin);
    for (int begin = keys.begin; begin < keys.end; begin += GPU_WARP) {
        const int key = begin + static_cast<int>(lane);
        float s[PLAIN_ROWS] = {};
        if (key < keys.end) {
            const run_cuda &run = move_cursor(cursor, key, 2 * GPU_WARP);
            warp_values[lane] = run_row(run, run.dev_v, key, runs.v_row_bytes);
            score_key<V, is_whole>(s, query_pieces, d,
                                   run_row(run, run.dev_k, key, runs.k_row_bytes), a.d_k);
        }
#pragma unroll
        for (uint32_t r = 0; r < PLAIN_ROWS; r++) {
            weigh_row(s[r], key < keys.end && first + r < job.n_rows, a.scale, r, all);
            warp_weights[lane * PLAIN_ROWS + r] = s[r];
        }
        __syncwarp(); // the weights and places are there
        for (int j = 0; j < GPU_WARP && begin + j < keys.end; j++)
            add_values<V, is_whole>(warp_values[j], a.d_v, warp_weights + j * PLAIN_ROWS, all);
        __syncwarp(); // they are read before the next ones are written
    }
    write_rows(job, kv_head, part, first, all);
}

template <class V>
static cudaError_t launch_plain(const runs_job &runs, cudaStream_t stream)
{
    const attend_job &job = runs.job;
    const bool is_whole = job.a.d_k % PIECE == 0 && job.a.d_v % PIECE == 0;
    const gpu_grid grid =
        gpu_grid_parts(job.n_tiles, job.a.n_kv_heads,
                       (job.parts.n + ATTEND_WARPS - 1) / ATTEND_WARPS, ATTEND_THREADS, 0);
    if (is_whole) return LAUNCH((runs_plain_kernel<V, true>), grid, stream, runs);
    return LAUNCH((runs_plain_kernel<V, false>), grid, stream, runs);
}

cudaError_t runs_plain(const runs_job &runs, cudaStream_t stream)
{
    if (runs.job.a.kv_type == FATHOM_TYPE_F32) return launch_plain<f32_values>(runs, stream);
    if (runs.job.a.kv_type == FATHOM_TYPE_F16) return launch_plain<f16_values>(runs, stream);
    return launch_plain<bf16_values>(runs, stream);
}
