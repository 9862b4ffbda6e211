// Attention for rows of any type, size and place: the path for what the kernels of matrices do not
// take, and in f32 throughout.
//
//     block                       bytes moved                           flops
//     8 rows of a KV head,        keys and values of the part once a    2 (d_k + d_v) a row and
//     key, 4 parts of the keys, each   tile, in pieces of 16 bytes (f32) or  and exp a warp's 8
//     where rows allow it; 32 KiB of
//                                 queries at most from shared memory
//
// A warp takes 32 keys at a time. Scores: a lane has a key, and goes along it. Values: a lane has
// channels, and goes through the keys.

#include "gpu/attend.cuh"

enum { PIECE = 4, D_MAX = 256, SPANS = D_MAX / PIECE / GPU_WARP };

// Four channels of a row from c on; zeros past its end. Whole pieces are aligned to their size.
template <class V, bool is_whole>
static __device__ __forceinline__ void read_piece(float (&x)[PIECE], const void *row, uint32_t c,
                                                  uint32_t d)
{
    using type = typename V::type;
    struct alignas(PIECE * sizeof(type)) piece {
        type values[PIECE];
    };
    if (is_whole) {
        const piece got = *reinterpret_cast<const piece *>(static_cast<const type *>(row) + c);
#pragma unroll
        for (uint32_t i = 0; i < PIECE; i++)
            x[i] = V::widen(got.values[i]);
    } else {
#pragma unroll
        for (uint32_t i = 0; i < PIECE; i++)
            x[i] = c + i < d ? V::widen(static_cast<const type *>(row)[c + i]) : 0;
    }
}

// The tile's queries, turned and scaled, with zeros behind them to a whole piece: [PLAIN_ROWS][d].
static __device__ __forceinline__ void read_queries(const attend_job &job, uint32_t kv_head,
                                                    uint32_t first, float *queries, uint32_t d)
{
    const rotation by = query_rotation(job.a);
    for (uint32_t i = threadIdx.x; i < PLAIN_ROWS * d; i += blockDim.x) {
        const uint32_t row = first + i / d, c = i % d;
        const bool is_there = row < job.n_rows && c < job.a.d_k;
        queries[i] =
            is_there ? turn_value(by, query_row(job, kv_head, row), row / job.group, c) : 0;
    }
}

// What a warp has gathered: weights relative to the greatest score, and values of these weights;
// lane l has channels PIECE l .. of each span.
struct gathered {
    float most[PLAIN_ROWS], sum[PLAIN_ROWS];
    float o[PLAIN_ROWS][SPANS][PIECE];
};

// Scores to weights, which are negative where a row does not see the lane's key.
static __device__ __forceinline__ void weigh(const attend_job &job, uint32_t first, int key,
                                             int end, float (&s)[PLAIN_ROWS], gathered &all)
{
#pragma unroll
    for (uint32_t r = 0; r < PLAIN_ROWS; r++) {
        const key_range seen = row_keys(job, first + r);
        const bool is_seen = key < end && key >= seen.begin && key < seen.end;
        const float score = is_seen ? s[r] * job.a.scale : -INFINITY;
        const float most = fmaxf(all.most[r], warp_max(score));
        const float reference = most == -INFINITY ? 0 : most;
        const float factor = all.most[r] == -INFINITY ? 1 : expf(all.most[r] - reference);
        s[r] = is_seen ? expf(score - reference) : -1;
        all.most[r] = most;
        all.sum[r] = fmaf(all.sum[r], factor, is_seen ? s[r] : 0);
#pragma unroll
        for (uint32_t i = 0; i < SPANS * PIECE; i++)
            all.o[r][i / PIECE][i % PIECE] *= factor;
    }
}

template <class V, bool is_whole>
static __device__ __forceinline__ void add_values(const char *v, uint32_t d, const float *weights,
                                                  gathered &all)
{
    const uint32_t lane = threadIdx.x % GPU_WARP;
#pragma unroll
    for (uint32_t span = 0; span < SPANS; span++) {
        const uint32_t c = PIECE * (GPU_WARP * span + lane);
        float x[PIECE];
        if (c >= d) continue;
        read_piece<V, is_whole>(x, v, c, d);
#pragma unroll
        for (uint32_t r = 0; r < PLAIN_ROWS; r++) {
            const float weight = weights[r];
            if (weight == -1) continue;
#pragma unroll
            for (uint32_t i = 0; i < PIECE; i++)
                all.o[r][span][i] = fmaf(weight, x[i], all.o[r][span][i]);
        }
    }
}

static __device__ __forceinline__ void write_rows(const attend_job &job, uint32_t kv_head,
                                                  uint32_t part, uint32_t first,
                                                  const gathered &all)
{
    const uint32_t lane = threadIdx.x % GPU_WARP;
#pragma unroll
    for (uint32_t r = 0; r < PLAIN_ROWS; r++) {
        const float sum = warp_sum(all.sum[r]);
        if (first + r >= job.n_rows) continue;
        const size_t to = result_row(job, kv_head, part, first + r);
#pragma unroll
        for (uint32_t i = 0; i < SPANS * PIECE; i++) {
            const uint32_t c = PIECE * (GPU_WARP * (i / PIECE) + lane) + i % PIECE;
            if (c < job.a.d_v)
                job.o[to * job.a.d_v + c] = sum == 0 ? 0 : all.o[r][i / PIECE][i % PIECE] / sum;
        }
        if (lane == 0 && job.lse != NULL)
            job.lse[to] = sum == 0 ? -INFINITY : all.most[r] + logf(sum);
    }
}

template <class V, bool is_whole>
__global__ void __launch_bounds__(ATTEND_THREADS, 2) attend_plain_kernel(attend_job job)
{
    SHARED_ARRAY(float4, query_pieces, PLAIN_ROWS * D_MAX / PIECE);
    SHARED_ARRAY(float, weights, ATTEND_THREADS *PLAIN_ROWS);
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
        for (uint32_t c = 0; c < d && key < keys.end; c += PIECE) {
            float x[PIECE];
            read_piece<V, is_whole>(x, k + key * a.k_row_bytes, c, a.d_k);
#pragma unroll
            for (uint32_t r = 0; r < PLAIN_ROWS; r++) {
                const float4 q = query_pieces[(r * d + c) / PIECE];
                s[r] = fmaf(q.x, x[0], fmaf(q.y, x[1], fmaf(q.z, x[2], fmaf(q.w, x[3], s[r]))));
            }
        }
        weigh(job, first, key, keys.end, s, all);
#pragma unroll
        for (uint32_t r = 0; r < PLAIN_ROWS; r++)
            warp_weights[lane * PLAIN_ROWS + r] = s[r];
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
