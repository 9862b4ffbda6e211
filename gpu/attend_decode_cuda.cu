// Attention in decoding: few rows over many keys in f16 or bf16, bound by reading them.
//
//     block                       bytes moved                      flops
//     8 or 16 rows of a KV head,  keys and values of the part      2 (2 d_k + 2 d_v) a row and key
//     4 parts of the keys, each   once a tile, in loads of 16      (tiles are filled up), on tensor
//     a warp's                    bytes straight to registers      cores, and exp
//
// One query head of each of 8 KV heads over 131072 keys of 128 channels: 512 MiB. A warp takes 16
// keys at a time and has 4 KiB or more under way: values are asked for before the scores of their
// keys are computed, and the next keys before the values are used. Nothing but the queries is in
// shared memory, and warps do not wait for each other.
//
// Operands of mma.sync come as they lie in memory, because the order of what is summed is free as
// long as both factors have the same, and that of the results is put right when they are written:
// - Scores: S [16, 16 keys]. A lane loads 8 channels of a key: two steps of 16 have channels 8p ..
// 8p+3
//   and 8p+4 .. 8p+7 of place p. Queries have two halves, each in 16 bits, in rows r and r + 8 of
//   the tile: q = high + low.
// - Values: O^T [16 channels, 8 rows] = V^T P^T. A lane loads 8 channels of four keys. P in two
//   halves again. So decoding is about as exact as sums in f32 are with f16, and to 2^-16 with
//   bf16.

#include "gpu/attend_decode.cuh"

// Fragments of the tile's queries, [TILES][D / 16 steps][lane]; and the factors of their rows.
template <class V, int D, int TILES>
static __device__ __forceinline__ void put_queries(const attend_job &job, uint32_t kv_head,
                                                   uint32_t first, uint4 *queries, float *factors)
{
    const rotation by = query_rotation(job.a);
    const uint32_t lane = threadIdx.x % GPU_WARP, d = job.a.d_k;
    for (uint32_t r = threadIdx.x / GPU_WARP; r < TILES * DECODE_ROWS; r += ATTEND_WARPS) {
        const uint32_t row = first + r;
        const int exponent = scan_query(job, kv_head, row);
        const float power = power_of_two(exponent);
        if (lane == 0) factors[r] = score_factor(job, exponent);
        for (uint32_t piece = lane; piece < D / 4; piece += GPU_WARP) {
            // Of 32 channels, place p has 8p ..; the first four are of an even step.
            const uint32_t step = piece / 8 * 2 + piece % 2, place = piece / 2 % 4, c = 4 * piece;
            float x[4];
            for (uint32_t i = 0; i < 4; i++)
                x[i] = row < job.n_rows && c + i < d
                           ? power * turn_value(by, query_row(job, kv_head, row), row / job.group,
                                                c + i)
                           : 0;
            queries[((r / DECODE_ROWS) * (D / 16) + step) * GPU_WARP + r % DECODE_ROWS * 4 +
                    place] = split_values<V>(x);
        }
    }
}

// What a warp has gathered for TILES of 8 rows. Of each, lane (g, p) has the greatest score of row
// g, a part of the sum of its weights, and of the products rows 2p and 2p + 1.
template <int D, int TILES>
struct decoded {
    float most[TILES], sum[TILES][1];
    float o[TILES][D / 16][4];
};

template <int D>
struct key_words {
    unsigned w[2][D / 32][WORDS]; // keys g and g + 8
};

template <int D>
static __device__ __forceinline__ void load_keys(key_words<D> &keys, const attend_job &job,
                                                 const char *k, int key, int end)
{
    const uint32_t lane = threadIdx.x % GPU_WARP, group = lane / 4, place = lane % 4;
#pragma unroll
    for (int n = 0; n < 2; n++) {
        const int at = key + 8 * n + static_cast<int>(group);
#pragma unroll
        for (int b = 0; b < D / 32; b++)
            load_words(keys.w[n][b], k + at * job.a.k_row_bytes + 2 * (32 * b + 8 * place),
                       at < end && 32 * b + 8 * place < job.a.d_k);
    }
}

template <int D>
struct value_words {
    unsigned w[4][D / BLOCK][WORDS]; // keys 2p, 2p + 1, 2p + 8, 2p + 9
};

template <int D>
static __device__ __forceinline__ void load_values(value_words<D> &values, const attend_job &job,
                                                   const char *v, int key, int end)
{
    const uint32_t lane = threadIdx.x % GPU_WARP, group = lane / 4, place = lane % 4;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const int at = key + static_cast<int>(2 * place) + j % 2 + j / 2 * 8;
#pragma unroll
        for (int b = 0; b < D / BLOCK; b++)
            load_words(values.w[j][b], v + at * job.a.v_row_bytes + 2 * (BLOCK * b + 8 * group),
                       at < end && BLOCK * b + 8 * group < job.a.d_v);
    }
}

// Scores of row g with keys 2p, 2p + 1, 2p + 8, 2p + 9.
template <class V, int D>
static __device__ __forceinline__ void score_keys(float (&s)[4], const uint4 *queries,
                                                  const key_words<D> &keys, float factor)
{
    float c[2][4] = {};
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
        const uint4 got = queries[step * GPU_WARP + threadIdx.x % GPU_WARP];
        const unsigned q[4] = {got.x, got.y, got.z, got.w};
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const unsigned(&w)[WORDS] = keys.w[n][step / 2];
            const unsigned k[2] = {w[step % 2 * 2], w[step % 2 * 2 + 1]};
            multiply(V{}, c[n], q, k);
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float high = c[i / 2][i % 2], low = c[i / 2][i % 2 + 2];
        // An infinite key, times a low half of zero, is NaN.
        s[i] = (fabsf(high) == INFINITY ? high : high + low) * factor;
    }
}

// Scores that a row does not see become -infinity.
static __device__ __forceinline__ void mask_scores(float (&s)[4], key_range seen, int key)
{
    const int at = key + static_cast<int>(threadIdx.x % 4 * 2);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int j = at + i % 2 + i / 2 * 8;
        if (j < seen.begin || j >= seen.end) s[i] = -INFINITY;
    }
}

// With is_edge some rows do not see all keys: seen has ones for those that a row sees.
template <class V, int D, bool is_edge>
static __device__ __forceinline__ void add_values(float (&o)[D / 16][4], const float (&weights)[4],
                                                  const value_words<D> &values,
                                                  const unsigned (&seen)[2])
{
    const uint4 halves = split_values<V>(weights);
    const unsigned high[2] = {halves.x, halves.z}, low[2] = {halves.y, halves.w};
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
        const int b = step / 4, i = step % 4;
        const unsigned w0 = values.w[0][b][i], w1 = values.w[1][b][i];
        const unsigned w2 = values.w[2][b][i], w3 = values.w[3][b][i];
        unsigned v[4] = {low_halves(w0, w1), high_halves(w0, w1), low_halves(w2, w3),
                         high_halves(w2, w3)};
        if (is_edge) {
            unsigned bad[4];
            float n_bad[4] = {};
            for (int j = 0; j < 4; j++)
                bad[j] = take_bad<V>(v[j]);
            multiply(V{}, n_bad, bad, seen);
            for (int j = 0; j < 4; j++)
                if (n_bad[j] > 0) o[step][j] = NAN;
        }
        multiply(V{}, o[step], v, high);
        multiply(V{}, o[step], v, low);
    }
}

template <class V>
static __device__ __forceinline__ void find_seen(unsigned (&seen)[2], key_range keys, int key)
{
    float ones[4] = {0, 0, 0, 0};
    mask_scores(ones, keys, key);
    for (int i = 0; i < 2; i++)
        seen[i] = V::pack(ones[2 * i] == 0, ones[2 * i + 1] == 0);
}

template <int D, int TILES>
static __device__ __forceinline__ void write_rows(const attend_job &job, uint32_t kv_head,
                                                  uint32_t part, uint32_t first,
                                                  const decoded<D, TILES> &all)
{
    const uint32_t lane = threadIdx.x % GPU_WARP, group = lane / 4, place = lane % 4;
#pragma unroll
    for (uint32_t t = 0; t < TILES; t++) {
        float sum = all.sum[t][0] + __shfl_xor_sync(0xffffffffu, all.sum[t][0], 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        const uint32_t row = first + DECODE_ROWS * t + group;
        if (place == 0 && row < job.n_rows && job.lse != NULL)
            job.lse[result_row(job, kv_head, part, row)] =
                weight_lse(weight_reference(all.most[t]), sum);
#pragma unroll
        for (uint32_t j = 0; j < 2; j++) {
            const uint32_t to = first + DECODE_ROWS * t + 2 * place + j;
            const float to_sum = __shfl_sync(0xffffffffu, sum, static_cast<int>(8 * place + 4 * j));
            if (to >= job.n_rows) continue;
            float *o = job.o + result_row(job, kv_head, part, to) * job.a.d_v;
#pragma unroll
            for (uint32_t i = 0; i < D / 16 * 2; i++) { // o[i / 2] has channels 2 (i / 2), and next
                const uint32_t c = BLOCK * (i / 8) + 8 * group + i % 8;
                if (c < job.a.d_v) o[c] = to_sum == 0 ? 0 : all.o[t][i / 2][i % 2 * 2 + j] / to_sum;
            }
        }
    }
}

template <class V, int D, int TILES>
__global__ void __launch_bounds__(ATTEND_THREADS, 2) attend_decode_kernel(attend_job asked)
{
    // The next keys are asked for before the values are used, unless registers are short; then 16
    // KiB are under way at the beginning of a step.
    enum { FETCHES = TILES * D <= 128 };
    SHARED_ARRAY(uint4, queries, TILES * D / 16 * GPU_WARP);
    SHARED_ARRAY(float, factors, TILES *DECODE_ROWS);
    const attend_job job = settled(asked);
    const dense_attend_args &a = job.a;
    const uint32_t group = threadIdx.x % GPU_WARP / 4;
    const uint32_t first = blockIdx.x % job.n_tiles * TILES * DECODE_ROWS;
    const uint32_t kv_head = blockIdx.x / job.n_tiles % a.n_kv_heads;
    const uint32_t part =
        blockIdx.x / job.n_tiles / a.n_kv_heads * ATTEND_WARPS + threadIdx.x / GPU_WARP;
    put_queries<V, D, TILES>(job, kv_head, first, queries, factors);
    __syncthreads(); // the queries are there; warps go on alone
    if (part >= job.parts.n) return;

    const char *k = static_cast<const char *>(a.dev_k) + kv_head * a.k_head_stride_bytes;
    const char *v = static_cast<const char *>(a.dev_v) + kv_head * a.v_head_stride_bytes;
    const key_range keys = part_keys(job, part, first, TILES * DECODE_ROWS);
    const key_range common = common_keys(job, first, TILES * DECODE_ROWS);
    decoded<D, TILES> all = {};
    key_words<D> k_words;
    value_words<D> v_words;
#pragma unroll
    for (int t = 0; t < TILES; t++)
        all.most[t] = -INFINITY;
    if (FETCHES) load_keys(k_words, job, k, keys.begin, keys.end);
    for (int key = keys.begin; key < keys.end; key += KEYS) {
        const bool is_edge = key < common.begin || key + KEYS > common.end || key + KEYS > keys.end;
        float s[TILES][4];
        if (!FETCHES) load_keys(k_words, job, k, key, keys.end);
        load_values(v_words, job, v, key, keys.end);
#pragma unroll
        for (int t = 0; t < TILES; t++)
            score_keys<V, D>(s[t], queries + t * (D / 16) * GPU_WARP, k_words,
                             factors[t * DECODE_ROWS + group]);
        if (FETCHES) load_keys(k_words, job, k, key + KEYS, keys.end);
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            unsigned seen[2] = {0, 0};
            if (is_edge) {
                key_range mine = row_keys(job, first + DECODE_ROWS * t + group);
                mine.end = min(mine.end, keys.end);
                mask_scores(s[t], mine, key);
                find_seen<V>(seen, mine, key);
                weigh(s[t], all.most[t], all.sum[t], all.o[t]);
                add_values<V, D, true>(all.o[t], s[t], v_words, seen);
            } else {
                weigh(s[t], all.most[t], all.sum[t], all.o[t]);
                add_values<V, D, false>(all.o[t], s[t], v_words, seen);
            }
        }
    }
    write_rows(job, kv_head, part, first, all);
}

uint32_t attend_decode_rows(const dense_attend_args &args)
{
    const size_t n_rows = static_cast<size_t>(args.n_tokens) * (args.n_heads / args.n_kv_heads);
    const uint32_t d = args.d_k > args.d_v ? args.d_k : args.d_v;
    return d <= 64 || (d <= 128 && n_rows > DECODE_ROWS) ? 2 * DECODE_ROWS : DECODE_ROWS;
}

template <class V>
static cudaError_t launch_decode(const attend_job &job, cudaStream_t stream)
{
    const gpu_grid grid =
        gpu_grid_parts(job.n_tiles, job.a.n_kv_heads,
                       (job.parts.n + ATTEND_WARPS - 1) / ATTEND_WARPS, ATTEND_THREADS, 0);
    const uint32_t d = job.a.d_k > job.a.d_v ? job.a.d_k : job.a.d_v;
    const uint32_t tiles = attend_decode_rows(job.a) / DECODE_ROWS;
#define TRY(channels, n_tiles)                                                                     \
    if (d <= channels && tiles == n_tiles)                                                         \
        return LAUNCH((attend_decode_kernel<V, channels, n_tiles>), grid, stream, job);
    DECODE_KERNELS(TRY)
#undef TRY
    return cudaErrorInvalidValue;
}

cudaError_t attend_decode(const attend_job &job, cudaStream_t stream)
{
    return job.a.kv_type == FATHOM_TYPE_F16 ? launch_decode<f16_values>(job, stream)
                                            : launch_decode<bf16_values>(job, stream);
}
