// What the plain kernels of attention share, those of dense rows and of runs: a warp takes 32 keys
// at a time and a tile of PLAIN_ROWS rows. Scores: a lane has a key, and goes along it. Values: a
// lane has channels, and goes through the keys.

#ifndef FATHOM_GPU_ATTEND_PLAIN_CUH
#define FATHOM_GPU_ATTEND_PLAIN_CUH

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

// Scores of the tile's rows with a key.
template <class V, bool is_whole>
static __device__ __forceinline__ void score_key(float (&s)[PLAIN_ROWS], const float4 *queries,
                                                 uint32_t d, const char *key, uint32_t d_k)
{
    for (uint32_t c = 0; c < d; c += PIECE) {
        float x[PIECE];
        read_piece<V, is_whole>(x, key, c, d_k);
#pragma unroll
        for (uint32_t r = 0; r < PLAIN_ROWS; r++) {
            const float4 q = queries[(r * d + c) / PIECE];
            s[r] = fmaf(q.x, x[0], fmaf(q.y, x[1], fmaf(q.z, x[2], fmaf(q.w, x[3], s[r]))));
        }
    }
}

// The score of row r with the lane's key to a weight, -1 where it does not see it.
static __device__ __forceinline__ void weigh_row(float &s, bool is_seen, float scale, uint32_t r,
                                                 gathered &all)
{
    const float score = is_seen ? s * scale : -INFINITY;
    const float most = fmaxf(all.most[r], warp_max(score));
    const float reference = most == -INFINITY ? 0 : most;
    const float factor = all.most[r] == -INFINITY ? 1 : expf(all.most[r] - reference);
    s = is_seen ? expf(score - reference) : -1;
    all.most[r] = most;
    all.sum[r] = fmaf(all.sum[r], factor, is_seen ? s : 0);
#pragma unroll
    for (uint32_t i = 0; i < SPANS * PIECE; i++)
        all.o[r][i / PIECE][i % PIECE] *= factor;
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

#endif
