// Attention in prefill: many rows over keys in f16 or bf16, bound by products.
//
//     block                       bytes moved                        flops
//     64 rows of a KV head,       keys and values of what the tile   2 (d_k + d_v) a row and key,
//     on 16 to a warp                sees, once; queries and results    tensor cores, and exp
//
// Flash attention (Dao et al. 2022, arXiv 2205.14135): a tile of keys and one of values are in
// shared memory, while the next ones are on their way; scores, weights and results stay in
// registers. Queries (times a power of two) and weights are rounded to the type of the rows: each
// score errs by half a unit of that type of sum |q k|, each weight by half a unit.
//
// Rows in shared memory are 16 bytes longer than they need be, so that the eight that ldmatrix
// reads at once lie in different banks.

#include "gpu/attend.cuh"

enum { TILE_VALUES = 8, ROW_PAD = TILE_VALUES, WARP_ROWS = 16 };

template <int D>
struct prefill_size {
    enum {
        KEYS = D <= 128 ? 64 : 32, // of a tile
        STRIDE = D + ROW_PAD,      // values
        TILE = KEYS * STRIDE,
        // Queries stay in registers if these suffice, else behind the tiles.
        HOLDS_QUERIES = D <= 128,
        QUERIES = HOLDS_QUERIES ? 0 : PREFILL_ROWS * STRIDE,
        BYTES = 2 * (4 * TILE + QUERIES), // two tiles of keys and two of values, of 2 bytes
    };
};
static_assert(prefill_size<256>::BYTES <= 99 * 1024, "a multiprocessor's most, sm_86 and sm_89");

// Copies a tile of rows, from `key` on and before `end`; zeros elsewhere, and behind d.
template <int D>
static __device__ __forceinline__ void copy_tile(uint16_t *tile, const char *rows, size_t row_bytes,
                                                 uint32_t d, int key, int end)
{
    enum { PIECES = D / TILE_VALUES };
    for (int i = static_cast<int>(threadIdx.x); i < prefill_size<D>::KEYS * PIECES;
         i += ATTEND_THREADS) {
        const int j = i / PIECES, c = i % PIECES * TILE_VALUES;
        const bool is_there = key + j < end && c < static_cast<int>(d);
        dev_copy16(tile + j * prefill_size<D>::STRIDE + c,
                   is_there ? rows + (key + j) * row_bytes + 2 * c : rows, is_there);
    }
}

// The warp's 16 queries: as fragments, or where the lane reads these.
template <int D>
struct prefill_queries {
    unsigned words[prefill_size<D>::HOLDS_QUERIES ? D / 16 : 1][4];
    const uint16_t *at;
};

// Reads them, by way of shared memory of the warp's own; and the factors of rows g and g + 8.
template <class V, int D>
static __device__ __forceinline__ void read_queries(const attend_job &job, uint32_t kv_head,
                                                    uint32_t first, uint16_t *shared,
                                                    prefill_queries<D> &q, float (&factors)[2])
{
    const rotation by = query_rotation(job.a);
    const uint32_t lane = threadIdx.x % GPU_WARP;
    for (uint32_t r = 0; r < WARP_ROWS; r++) {
        const uint32_t row = first + r;
        const int exponent = scan_query(job, kv_head, row);
        const float power = power_of_two(exponent);
        if (lane / 4 == r) factors[0] = score_factor(job, exponent);
        if (lane / 4 + 8 == r) factors[1] = score_factor(job, exponent);
        for (uint32_t c = 2 * lane; c < D; c += 2 * GPU_WARP) {
            float x[2];
            for (uint32_t i = 0; i < 2; i++)
                x[i] = row < job.n_rows && c + i < job.a.d_k
                           ? power * turn_value(by, query_row(job, kv_head, row), row / job.group,
                                                c + i)
                           : 0;
            *reinterpret_cast<unsigned *>(shared + r * prefill_size<D>::STRIDE + c) =
                V::pack(x[0], x[1]);
        }
    }
    __syncwarp(); // the rows are there
    q.at = shared + lane % 16 * prefill_size<D>::STRIDE + lane / 16 * 8;
    if constexpr (prefill_size<D>::HOLDS_QUERIES) {
#pragma unroll
        for (int step = 0; step < D / 16; step++)
            dev_load_matrix(q.words[step], q.at + 16 * step);
    }
}

// What a warp has gathered: of rows g and g + 8 the greatest score and a part of the sum of
// weights; and products as fragments.
template <int D>
struct prefilled {
    float most[2], sum[2];
    float o[D / 8][4];
};

template <class V, int D>
static __device__ __forceinline__ void score_tile(float (&s)[prefill_size<D>::KEYS / 8][4],
                                                  const prefill_queries<D> &queries,
                                                  const uint16_t *tile)
{
    const uint32_t lane = threadIdx.x % GPU_WARP;
    const uint16_t *at =
        tile + (lane / 16 * 8 + lane % 8) * prefill_size<D>::STRIDE + lane / 8 % 2 * 8;
#pragma unroll
    for (int i = 0; i < prefill_size<D>::KEYS / 2; i++)
        s[i / 4][i % 4] = 0;
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
        unsigned q[4];
        if constexpr (prefill_size<D>::HOLDS_QUERIES)
            memcpy(q, queries.words[step], sizeof q);
        else
            dev_load_matrix(q, queries.at + 16 * step);
#pragma unroll
        for (int pair = 0; pair < prefill_size<D>::KEYS / 16; pair++) {
            unsigned k[4];
            dev_load_matrix(k, at + 16 * pair * prefill_size<D>::STRIDE + 16 * step);
            multiply(V{}, s[2 * pair], q, {k[0], k[1]});
            multiply(V{}, s[2 * pair + 1], q, {k[2], k[3]});
        }
    }
}

// Whether the lane's row g or g + 8 sees key 8n + 2p or the next of the tile at `key`.
static __device__ __forceinline__ bool sees(const key_range (&seen)[2], int key, int n, int i)
{
    const int j = key + 8 * n + static_cast<int>(threadIdx.x % 4 * 2) + i % 2;
    return j >= seen[i / 2].begin && j < seen[i / 2].end;
}

// Scores to weights; what was gathered is made relative to greater scores.
template <int D>
static __device__ __forceinline__ void weigh_tile(float (&s)[prefill_size<D>::KEYS / 8][4],
                                                  const float (&factors)[2], prefilled<D> &all)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float top = -INFINITY;
#pragma unroll
        for (int n = 0; n < prefill_size<D>::KEYS / 8; n++)
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                s[n][i] *= factors[half];
                top = fmaxf(top, s[n][i]);
            }
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
        top = fmaxf(all.most[half], fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2)));
        const float reference = weight_reference(top);
        const float factor =
            all.most[half] == -INFINITY ? 1 : exp2f(weight_reference(all.most[half]) - reference);
        float sum = 0;
#pragma unroll
        for (int n = 0; n < prefill_size<D>::KEYS / 8; n++)
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                s[n][i] = exp2f(s[n][i] - reference);
                sum += s[n][i];
            }
        all.sum[half] = fmaf(all.sum[half], factor, sum);
        all.most[half] = top;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            all.o[n][2 * half] *= factor;
            all.o[n][2 * half + 1] *= factor;
        }
    }
}

// Products with a tile's values. With is_edge some rows do not see all keys.
template <class V, int D, bool is_edge>
static __device__ __forceinline__ void add_tile(const float (&s)[prefill_size<D>::KEYS / 8][4],
                                                const uint16_t *tile, const key_range (&seen)[2],
                                                int key, prefilled<D> &all)
{
    const uint32_t lane = threadIdx.x % GPU_WARP;
    const uint16_t *at =
        tile + (lane / 8 % 2 * 8 + lane % 8) * prefill_size<D>::STRIDE + lane / 16 * 8;
#pragma unroll
    for (int step = 0; step < prefill_size<D>::KEYS / 16; step++) {
        unsigned weights[4], ones[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int n = 2 * step + i / 2, at_row = i % 2 * 2;
            weights[i] = V::pack(s[n][at_row], s[n][at_row + 1]);
            if (is_edge)
                ones[i] = V::pack(sees(seen, key, n, at_row), sees(seen, key, n, at_row + 1));
        }
#pragma unroll
        for (int pair = 0; pair < D / 16; pair++) {
            unsigned v[4];
            dev_load_matrix_turned(v, at + 16 * step * prefill_size<D>::STRIDE + 16 * pair);
            if (is_edge) {
                float n_bad[2][4] = {};
                unsigned bad[4];
                for (int i = 0; i < 4; i++)
                    bad[i] = take_bad<V>(v[i]);
                if (__any_sync(0xffffffffu, (bad[0] | bad[1] | bad[2] | bad[3]) != 0))
                    for (int i = 0; i < 2; i++)
                        multiply(V{}, n_bad[i], ones, {bad[2 * i], bad[2 * i + 1]});
                for (int i = 0; i < 8; i++)
                    if (n_bad[i / 4][i % 4] > 0) all.o[2 * pair + i / 4][i % 4] = NAN;
            }
            multiply(V{}, all.o[2 * pair], weights, {v[0], v[1]});
            multiply(V{}, all.o[2 * pair + 1], weights, {v[2], v[3]});
        }
    }
}

template <int D>
static __device__ __forceinline__ void write_rows(const attend_job &job, uint32_t kv_head,
                                                  uint32_t part, uint32_t first,
                                                  const prefilled<D> &all)
{
    const uint32_t lane = threadIdx.x % GPU_WARP, place = lane % 4;
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        const uint32_t row = first + lane / 4 + 8 * half;
        float sum = all.sum[half] + __shfl_xor_sync(0xffffffffu, all.sum[half], 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (row >= job.n_rows) continue;
        const size_t to = result_row(job, kv_head, part, row);
        if (place == 0 && job.lse != NULL)
            job.lse[to] = weight_lse(weight_reference(all.most[half]), sum);
#pragma unroll
        for (uint32_t i = 0; i < D / 4; i++) {
            const uint32_t c = 8 * (i / 2) + 2 * place + i % 2;
            if (c < job.a.d_v)
                job.o[to * job.a.d_v + c] = sum == 0 ? 0 : all.o[i / 2][2 * half + i % 2] / sum;
        }
    }
}

template <class V, int D>
__global__ void __launch_bounds__(ATTEND_THREADS, 2) attend_prefill_kernel(attend_job asked)
{
    enum { KEYS = prefill_size<D>::KEYS, TILE = prefill_size<D>::TILE };
    SHARED_DYNAMIC(memory);
    uint16_t *tiles = reinterpret_cast<uint16_t *>(memory); // keys, values, keys, values
    const attend_job job = settled(asked);
    const dense_attend_args &a = job.a;
    // The last tiles see the most keys: they go first, so that blocks end together.
    const uint32_t first = (job.n_tiles - 1 - blockIdx.x % job.n_tiles) * PREFILL_ROWS;
    const uint32_t kv_head = blockIdx.x / job.n_tiles % a.n_kv_heads;
    const uint32_t part = blockIdx.x / job.n_tiles / a.n_kv_heads;
    const uint32_t warp = threadIdx.x / GPU_WARP, row = first + WARP_ROWS * warp;
    const uint32_t my_row = row + threadIdx.x % GPU_WARP / 4;
    const char *k = static_cast<const char *>(a.dev_k) + kv_head * a.k_head_stride_bytes;
    const char *v = static_cast<const char *>(a.dev_v) + kv_head * a.v_head_stride_bytes;
    const key_range keys = part_keys(job, part, first, PREFILL_ROWS);
    const key_range seen[2] = {row_keys(job, my_row), row_keys(job, my_row + 8)};
    key_range common = {0, 0};
    if (row < job.n_rows) common = common_keys(job, row, WARP_ROWS);

    prefill_queries<D> q;
    float factors[2];
    uint16_t *queries = prefill_size<D>::HOLDS_QUERIES ? tiles : tiles + 4 * TILE;
    read_queries<V, D>(job, kv_head, row, queries + warp * WARP_ROWS * prefill_size<D>::STRIDE, q,
                       factors);
    __syncthreads(); // all queries are read before rows come in their place
    prefilled<D> all = {};
    all.most[0] = all.most[1] = -INFINITY;
    if (keys.begin < keys.end) {
        copy_tile<D>(tiles, k, a.k_row_bytes, a.d_k, keys.begin, keys.end);
        copy_tile<D>(tiles + TILE, v, a.v_row_bytes, a.d_v, keys.begin, keys.end);
    }
    dev_copy_commit();
    for (int key = keys.begin, turn = 0; key < keys.end; key += KEYS, turn ^= 1) {
        uint16_t *now = tiles + 2 * TILE * turn, *next = tiles + 2 * TILE * (turn ^ 1);
        if (key + KEYS < keys.end) {
            copy_tile<D>(next, k, a.k_row_bytes, a.d_k, key + KEYS, keys.end);
            copy_tile<D>(next + TILE, v, a.v_row_bytes, a.d_v, key + KEYS, keys.end);
        }
        dev_copy_commit();
        dev_copy_wait<1>();
        __syncthreads(); // the tile is there for all threads
        const bool is_edge = key < common.begin || key + KEYS > common.end || key + KEYS > keys.end;
        float s[KEYS / 8][4];
        score_tile<V, D>(s, q, now);
        if (is_edge) {
            const key_range part_seen[2] = {{seen[0].begin, min(seen[0].end, keys.end)},
                                            {seen[1].begin, min(seen[1].end, keys.end)}};
#pragma unroll
            for (int i = 0; i < KEYS / 2; i++)
                if (!sees(part_seen, key, i / 4, i % 4)) s[i / 4][i % 4] = -INFINITY;
            weigh_tile<D>(s, factors, all);
            add_tile<V, D, true>(s, now + TILE, part_seen, key, all);
        } else {
            weigh_tile<D>(s, factors, all);
            add_tile<V, D, false>(s, now + TILE, seen, key, all);
        }
        __syncthreads(); // all have read the tile before the next copies write it
    }
    write_rows<D>(job, kv_head, part, row, all);
}

// Channels that a kernel is made for.
#define PREFILL_KERNELS(run) run(64) run(96) run(128) run(256)

template <class V>
static cudaError_t launch_prefill(const attend_job &job, cudaStream_t stream)
{
    const uint32_t d = job.a.d_k > job.a.d_v ? job.a.d_k : job.a.d_v;
#define TRY(channels)                                                                              \
    if (d <= channels)                                                                             \
        return LAUNCH((attend_prefill_kernel<V, channels>),                                        \
                      gpu_grid_parts(job.n_tiles, job.a.n_kv_heads, job.parts.n, ATTEND_THREADS,   \
                                     prefill_size<channels>::BYTES),                               \
                      stream, job);
    PREFILL_KERNELS(TRY)
#undef TRY
    return cudaErrorInvalidValue;
}

cudaError_t attend_prefill(const attend_job &job, cudaStream_t stream)
{
    return job.a.kv_type == FATHOM_TYPE_F16 ? launch_prefill<f16_values>(job, stream)
                                            : launch_prefill<bf16_values>(job, stream);
}

template <class V, int D>
static cudaError_t allow_shared()
{
    void (*kernel)(attend_job) = attend_prefill_kernel<V, D>;
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                cudaFuncAttributeMaxDynamicSharedMemorySize,
                                prefill_size<D>::BYTES);
}

cudaError_t attend_prefill_open()
{
    cudaError_t error = cudaSuccess;
#define TRY(channels)                                                                              \
    if (error == cudaSuccess) error = allow_shared<f16_values, channels>();                        \
    if (error == cudaSuccess) error = allow_shared<bf16_values, channels>();
    PREFILL_KERNELS(TRY)
#undef TRY
    return error;
}
