// Attention in decoding over runs of rows in codes, f16 or bf16: few rows over many keys, bound by
// reading them.
//
//     block                       bytes moved                       flops
//     8 or 16 rows of a KV head,  keys and values of the part once  2 (2 d_k + 2 d_v) a row and key
//     4 parts of the keys, each   a tile, straight to registers;    (tiles are filled up), on
//     tensor a warp's                    24 a run, 8 d_k of ranges         cores, and exp
//
// One query head of each of 8 KV heads over 131072 keys of 128 channels in q8: 264 MiB. As
// attend_decode_cuda.cu, whose head comment says how operands of mma.sync come about, but that rows
// lie anywhere: lane l looks up where key l % 16 of the next 16 lies, or its value, while these are
// worked on. And codes go into the products as they are, which bf16 holds exactly:
//
//     K: <q, k> = sum_c (q[c] step[c]) code[c] + <q, min>. Queries come times the steps; the rest
//        is a number for each row.
//     V: sum_j w_j v[j] = sum_j (w_j step_j) code[j] + sum_j w_j min_j. The steps are those of
//        BLOCK channels, so weights are split in halves anew for each block; the rest is summed
//        like the weights themselves.
//
// Halves in bf16 leave 2^-16 of a query's value and of a weight at most, whatever the steps are.

#include "gpu/runs.cuh"
#include "gpu/runs_rows.cuh"

// ---- Queries ------------------------------------------------------------------------------------

// The products of a tile's rows become scores: times the factor, plus the bias.
struct row_numbers {
    float factor, bias;
};

// A value of a query, times the step of its channel.
template <class F>
static __device__ __forceinline__ float fold_step(const runs_head_cuda &head, const float *q,
                                                  uint32_t c)
{
    return F::BITS == 0 ? q[c] : q[c] * head.dev_k_step[c];
}

// Found by a warp together. The exponent is that of the query's factor.
template <class F>
static __device__ __forceinline__ row_numbers scan_row(const runs_job &runs,
                                                       const runs_head_cuda &head, const float *q,
                                                       int &exponent)
{
    const float log2_e = 1.44269504f;
    float most = 0, bias = 0;
    for (uint32_t c = threadIdx.x % GPU_WARP; q != NULL && c < runs.job.a.d_k; c += GPU_WARP) {
        most = fmaxf(most, fabsf(fold_step<F>(head, q, c)));
        if (F::BITS != 0) bias = fmaf(q[c], head.dev_k_min[c], bias);
    }
    exponent = query_exponent(warp_max(most));
    return {score_factor(runs.job, exponent), warp_sum(bias) * runs.job.a.scale * log2_e};
}

// Fragments of the tile's queries, [TILES][D / 16 steps][lane], and the numbers of their rows.
template <class F, int D, int TILES>
static __device__ __forceinline__ void put_queries(const runs_job &runs, uint32_t kv_head,
                                                   uint32_t first, uint4 *queries,
                                                   row_numbers *numbers)
{
    const runs_head_cuda head = runs.dev_heads[kv_head];
    const uint32_t lane = threadIdx.x % GPU_WARP, d = runs.job.a.d_k;
    for (uint32_t r = threadIdx.x / GPU_WARP; r < TILES * DECODE_ROWS; r += ATTEND_WARPS) {
        const uint32_t row = first + r;
        const bool is_there = row < runs.job.n_rows && head.n_runs != 0;
        const float *q = is_there ? query_row(runs.job, kv_head, row) : NULL;
        int exponent;
        const row_numbers got = scan_row<F>(runs, head, q, exponent);
        if (lane == 0) numbers[r] = got;
        for (uint32_t i = lane; i < D / 4; i += GPU_WARP) {
            const uint32_t step = i / 4, place = i % 4;
            float x[4];
            for (uint32_t j = 0; j < 4; j++) {
                const uint32_t c = BLOCK * (step / 4) + F::key_channel(step % 4, place, j);
                x[j] = q != NULL && c < d ? power_of_two(exponent) * fold_step<F>(head, q, c) : 0;
            }
            queries[((r / DECODE_ROWS) * (D / 16) + step) * GPU_WARP + r % DECODE_ROWS * 4 +
                    place] = split_values<typename F::values>(x);
        }
    }
}

// ---- Keys and values ----------------------------------------------------------------------------

// What a lane has of the next keys, g and g + 8, and values, 2p, 2p + 1, 2p + 8, 2p + 9.
template <class F, int D>
struct run_words {
    unsigned k[2][D / BLOCK][F::KEY_WORDS];
    unsigned v[4][D / BLOCK][F::VALUE_WORDS];
    unsigned scales[4][D / BLOCK]; // step and min, of codes
};

// Writes where the keys from `key` on lie, and then their values.
static __device__ __forceinline__ void put_places(const runs_job &runs, run_cursor &cursor, int key,
                                                  int end, const char **places)
{
    const uint32_t lane = threadIdx.x % GPU_WARP;
    const int mine = min(key + static_cast<int>(lane % KEYS), end - 1);
    const run_cuda &run = move_cursor(cursor, mine, 2 * KEYS);
    places[lane] = lane < KEYS ? run_row(run, run.dev_k, mine, runs.k_row_bytes)
                               : run_row(run, run.dev_v, mine, runs.v_row_bytes);
}

// n_left keys are left.
template <class F, int D>
static __device__ __forceinline__ void load_rows(run_words<F, D> &words, const runs_job &runs,
                                                 const char *const *places, int n_left)
{
    const uint32_t lane = threadIdx.x % GPU_WARP, group = lane / 4, place = lane % 4;
    const uint32_t block_bytes = BLOCK / 8 * (F::BITS == 0 ? 16 : +F::BITS);
    const uint32_t head_bytes = F::BITS == 0 ? 0 : (runs.job.a.d_v + BLOCK - 1) / BLOCK * 4;
#pragma unroll
    for (uint32_t n = 0; n < 2; n++) {
        const uint32_t j = group + 8 * n;
        const bool is_there = static_cast<int>(j) < n_left;
#pragma unroll
        for (uint32_t b = 0; b < D / BLOCK; b++)
            F::load_key(words.k[n][b], places[j], place, b * block_bytes, runs.k_row_bytes,
                        is_there);
    }
#pragma unroll
    for (uint32_t n = 0; n < 4; n++) {
        const uint32_t j = 2 * place + n % 2 + n / 2 * 8;
        const bool is_there = static_cast<int>(j) < n_left;
        const char *row = places[KEYS + j];
#pragma unroll
        for (uint32_t b = 0; b < D / BLOCK; b++) {
            const uint32_t at = head_bytes + b * block_bytes + F::VALUE_BYTES * group;
            F::load_value(words.v[n][b], row + at, is_there && at < runs.v_row_bytes);
            if constexpr (F::BITS != 0)
                read_words<1>(&words.scales[n][b], row + 4 * b, is_there && 4 * b < head_bytes);
        }
    }
}

// Scores of row g of each tile with keys 2p, 2p + 1, 2p + 8, 2p + 9.
template <class F, int D, int TILES>
static __device__ __forceinline__ void score_keys(float (&s)[TILES][4], const uint4 *queries,
                                                  const run_words<F, D> &words,
                                                  const row_numbers (&numbers)[TILES], int n_left)
{
    float c[TILES][2][4] = {};
#pragma unroll
    for (int step = 0; step < D / 16; step++)
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const unsigned k[2] = {F::key_pair(words.k[n][step / 4], step % 4, 0),
                                   F::key_pair(words.k[n][step / 4], step % 4, 1)};
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                const uint4 got =
                    queries[(t * (D / 16) + step) * GPU_WARP + threadIdx.x % GPU_WARP];
                const unsigned q[4] = {got.x, got.y, got.z, got.w};
                multiply(typename F::values{}, c[t][n], q, k);
            }
        }
#pragma unroll
    for (int i = 0; i < 4 * TILES; i++) {
        const int t = i / 4, n = i / 2 % 2;
        const float high = c[t][n][i % 2], low = c[t][n][i % 2 + 2];
        // An infinite key, times a low half of zero, is NaN. In codes only queries are infinite.
        const bool is_sum = F::BITS != 0 || fabsf(high) != INFINITY;
        const float product = is_sum ? high + low : high;
        const bool is_there = static_cast<int>(threadIdx.x % 4 * 2) + i % 2 + n * 8 < n_left;
        s[t][i % 4] = is_there ? fmaf(product, numbers[t].factor, numbers[t].bias) : -INFINITY;
    }
}

// ---- What is gathered ---------------------------------------------------------------------------

// Of each tile, lane (g, p) has the greatest score of row g; parts of the sums of its weights and,
// in codes, of these times each block's mins; and of the products rows 2p and 2p + 1.
template <class F, int D, int TILES>
struct gathered_runs {
    enum { SUMS = F::BITS == 0 ? 1 : 1 + D / BLOCK };
    float most[TILES], sums[TILES][SUMS];
    float o[TILES][D / 16][4];
};

template <class F, int D, int TILES>
static __device__ __forceinline__ void add_values(gathered_runs<F, D, TILES> &all,
                                                  const float (&weights)[TILES][4],
                                                  const run_words<F, D> &words)
{
#pragma unroll
    for (int b = 0; b < D / BLOCK; b++) {
        uint4 halves[TILES];
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            float folded[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                folded[i] = weights[t][i];
                if (F::BITS == 0) continue;
                const float2 scale = f16_values::unpack(words.scales[i][b]);
                float &sum = all.sums[t][F::BITS == 0 ? 0 : 1 + b];
                folded[i] *= scale.x;
                sum = fmaf(weights[t][i], scale.y, sum);
            }
            halves[t] = split_values<typename F::values>(folded);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            unsigned w[4];
#pragma unroll
            for (int n = 0; n < 4; n++)
                w[n] = F::value_pair(words.v[n][b], i);
            const unsigned v[4] = {low_halves(w[0], w[1]), high_halves(w[0], w[1]),
                                   low_halves(w[2], w[3]), high_halves(w[2], w[3])};
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                const unsigned high[2] = {halves[t].x, halves[t].z};
                const unsigned low[2] = {halves[t].y, halves[t].w};
                multiply(typename F::values{}, all.o[t][4 * b + i], v, high);
                multiply(typename F::values{}, all.o[t][4 * b + i], v, low);
            }
        }
    }
}

template <class F, int D, int TILES>
static __device__ __forceinline__ void write_rows(const attend_job &job, uint32_t kv_head,
                                                  uint32_t part, uint32_t first,
                                                  gathered_runs<F, D, TILES> &all)
{
    const uint32_t lane = threadIdx.x % GPU_WARP, group = lane / 4, place = lane % 4;
#pragma unroll
    for (uint32_t t = 0; t < TILES; t++) {
#pragma unroll
        for (int i = 0; i < all.SUMS; i++) {
            all.sums[t][i] += __shfl_xor_sync(0xffffffffu, all.sums[t][i], 1);
            all.sums[t][i] += __shfl_xor_sync(0xffffffffu, all.sums[t][i], 2);
        }
        const uint32_t row = first + DECODE_ROWS * t + group;
        if (place == 0 && row < job.n_rows)
            job.lse[result_row(job, kv_head, part, row)] =
                weight_lse(weight_reference(all.most[t]), all.sums[t][0]);
#pragma unroll
        for (uint32_t j = 0; j < 2; j++) {
            const uint32_t to = first + DECODE_ROWS * t + 2 * place + j;
            const int from = static_cast<int>(8 * place + 4 * j); // a lane with the row's sums
            float sums[all.SUMS];
#pragma unroll
            for (int i = 0; i < all.SUMS; i++)
                sums[i] = __shfl_sync(0xffffffffu, all.sums[t][i], from);
            if (to >= job.n_rows) continue;
            float *o = job.o + result_row(job, kv_head, part, to) * job.a.d_v;
#pragma unroll
            for (uint32_t i = 0; i < D / 16 * 2; i++) { // o[i / 2] has channels of a pair
                const uint32_t c = BLOCK * (i / 8) + F::value_channel(group, i % 8);
                const float rest = F::BITS == 0 ? 0 : sums[F::BITS == 0 ? 0 : 1 + i / 8];
                const float sum = all.o[t][i / 2][i % 2 * 2 + j] + rest;
                if (c < job.a.d_v) o[c] = sums[0] == 0 ? 0 : sum / sums[0];
            }
        }
    }
}

template <class F, int D, int TILES>
__global__ void __launch_bounds__(ATTEND_THREADS, 2) runs_decode_kernel(runs_job runs)
{
    SHARED_ARRAY(uint4, queries, TILES * D / 16 * GPU_WARP);
    SHARED_ARRAY(row_numbers, numbers, TILES * DECODE_ROWS);
    SHARED_ARRAY(const char *, places, 2 * ATTEND_THREADS);
    const attend_job &job = runs.job;
    const uint32_t group = threadIdx.x % GPU_WARP / 4, warp = threadIdx.x / GPU_WARP;
    const uint32_t first = blockIdx.x % job.n_tiles * TILES * DECODE_ROWS;
    const uint32_t kv_head = blockIdx.x / job.n_tiles % job.a.n_kv_heads;
    const uint32_t part = blockIdx.x / job.n_tiles / job.a.n_kv_heads * ATTEND_WARPS + warp;
    put_queries<F, D, TILES>(runs, kv_head, first, queries, numbers);
    __syncthreads(); // the queries are there; warps go on alone
    if (part >= job.parts.n) return;

    const runs_head_cuda head = runs.dev_heads[kv_head];
    const key_range keys = run_keys(runs, head, part);
    const char **mine = places + 2 * GPU_WARP * warp; // of the keys at hand, and of the next
    run_cursor cursor = {};
    row_numbers of_rows[TILES];
    gathered_runs<F, D, TILES> all = {};
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        of_rows[t] = numbers[t * DECODE_ROWS + group];
        all.most[t] = -INFINITY;
    }
    if (keys.begin < keys.end) {
        cursor = open_cursor(head, keys.begin);
        put_places(runs, cursor, keys.begin, keys.end, mine);
    }
    for (int key = keys.begin, turn = 0; key < keys.end; key += KEYS, turn ^= 1) {
        run_words<F, D> words;
        float s[TILES][4];
        __syncwarp(); // the places of these keys are there, and those before are read
        load_rows(words, runs, mine + GPU_WARP * turn, keys.end - key);
        if (key + KEYS < keys.end)
            put_places(runs, cursor, key + KEYS, keys.end, mine + GPU_WARP * (turn ^ 1));
        score_keys<F, D, TILES>(s, queries, words, of_rows, keys.end - key);
#pragma unroll
        for (int t = 0; t < TILES; t++)
            weigh(s[t], all.most[t], all.sums[t], all.o[t]);
        add_values(all, s, words);
    }
    write_rows(job, kv_head, part, first, all);
}

template <class F>
static cudaError_t launch_decode(const runs_job &runs, cudaStream_t stream)
{
    const attend_job &job = runs.job;
    const gpu_grid grid =
        gpu_grid_parts(job.n_tiles, job.a.n_kv_heads,
                       (job.parts.n + ATTEND_WARPS - 1) / ATTEND_WARPS, ATTEND_THREADS, 0);
    const uint32_t d = job.a.d_k > job.a.d_v ? job.a.d_k : job.a.d_v;
    const uint32_t tiles = attend_decode_rows(job.a) / DECODE_ROWS;
#define TRY(channels, n_tiles)                                                                     \
    if (d <= channels && tiles == n_tiles)                                                         \
        return LAUNCH((runs_decode_kernel<F, channels, n_tiles>), grid, stream, runs);
    DECODE_KERNELS(TRY)
#undef TRY
    return cudaErrorInvalidValue;
}

cudaError_t runs_decode(const runs_job &runs, cudaStream_t stream)
{
    if (runs.bits == 8) return launch_decode<code_rows<8>>(runs, stream);
    if (runs.bits == 4) return launch_decode<code_rows<4>>(runs, stream);
    if (runs.bits == 2) return launch_decode<code_rows<2>>(runs, stream);
    if (runs.job.a.kv_type == FATHOM_TYPE_F16)
        return launch_decode<plain_rows<f16_values>>(runs, stream);
    return launch_decode<plain_rows<bf16_values>>(runs, stream);
}
