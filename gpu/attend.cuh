// What the kernels of attention share: types of cached values, rotation, the part of the work that
// a call is cut into, and which keys a row sees.
//
// The query heads of a KV head and the tokens of a call are its rows: row r is token r / group,
// head r % group. They are taken in tiles, and the keys in parts, each of which leaves a partial.

#ifndef FATHOM_GPU_ATTEND_CUH
#define FATHOM_GPU_ATTEND_CUH

#include "fathom/fathom.h"
#include "gpu/attend_cuda.h"
#include "gpu/dialect.cuh"
#include "gpu/warp.cuh"

// Parameter of the kernels.
struct attend_job {
    dense_attend_args a;
    uint32_t group;             // query heads of a KV head
    uint32_t n_rows;            // of a KV head
    uint32_t n_tiles;           // of these
    uint32_t first_key;         // no token sees one before
    gpu_parts parts;            // of the keys from first_key on
    float *o;                   // [parts.n, n_tokens, n_heads, d_v]
    float *lse;                 // [parts.n, n_tokens, n_heads], or NULL
    const uint32_t *dev_n_keys; // says a.n_keys when the kernel runs; NULL: it is there
};

// Rows of a tile, and how the three kernels are launched. All have blocks of 128 threads. In the
// plain kernel and in decoding each warp has a part of its own.
enum { ATTEND_THREADS = 128, ATTEND_WARPS = ATTEND_THREADS / GPU_WARP };
enum { PLAIN_ROWS = 8, DECODE_ROWS = 8, DECODE_ROWS_MAX = 32, PREFILL_ROWS = 64 };
cudaError_t attend_plain(const attend_job &job, cudaStream_t stream);
cudaError_t attend_decode(const attend_job &job, cudaStream_t stream);
cudaError_t attend_prefill(const attend_job &job, cudaStream_t stream);
uint32_t attend_decode_rows(const dense_attend_args &args); // rows of its tiles: 8 or 16
cudaError_t attend_prefill_open();

// ---- Values -------------------------------------------------------------------------------------

struct f32_values {
    using type = float;
    static __device__ float widen(float x) { return x; }
};

struct f16_values {
    using type = __half;
    enum : unsigned { EXPONENT = 0x7c00, ONE = 0x3c00 };
    static __device__ float widen(__half x) { return __half2float(x); }
    static __device__ unsigned pack(float a, float b)
    {
        const __half2 pair = __floats2half2_rn(a, b);
        return *reinterpret_cast<const unsigned *>(&pair);
    }
    static __device__ float2 unpack(unsigned pair)
    {
        return __half22float2(*reinterpret_cast<const __half2 *>(&pair));
    }
};

struct bf16_values {
    using type = __nv_bfloat16;
    enum : unsigned { EXPONENT = 0x7f80, ONE = 0x3f80 };
    static __device__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
    static __device__ unsigned pack(float a, float b)
    {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
        return *reinterpret_cast<const unsigned *>(&pair);
    }
    static __device__ float2 unpack(unsigned pair)
    {
        return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162 *>(&pair));
    }
};

static __device__ __forceinline__ void multiply(f16_values, float (&c)[4], const unsigned (&a)[4],
                                                const unsigned (&b)[2])
{
    dev_mma_f16(c, a, b);
}

static __device__ __forceinline__ void multiply(bf16_values, float (&c)[4], const unsigned (&a)[4],
                                                const unsigned (&b)[2])
{
    dev_mma_bf16(c, a, b);
}

// Makes zeros of what is not finite in a pair of values; returns ones in its places. A weight of
// zero, times such a value, would be NaN for a row that does not see it.
template <class V>
static __device__ __forceinline__ unsigned take_bad(unsigned &pair)
{
    unsigned ones = 0;
    for (unsigned shift = 0; shift < 32; shift += 16)
        if ((pair >> shift & V::EXPONENT) == V::EXPONENT) {
            pair &= ~(0xffffu << shift);
            ones |= V::ONE << shift;
        }
    return ones;
}

// ---- Rotation -----------------------------------------------------------------------------------

// The angles of a call, and how they are used: as in store_rows_args.
struct rotation {
    const float *cos_sin; // [n_tokens, n_rot / 2, 2], or NULL
    uint32_t n_rot;
    int32_t pairing;
};

// Channel c of a row of this token, turned.
static __device__ __forceinline__ float turn_value(const rotation &by, const float *x, size_t token,
                                                   uint32_t c)
{
    if (by.cos_sin == NULL || c >= by.n_rot || by.pairing == FATHOM_ROPE_NONE) return x[c];
    const uint32_t n_pairs = by.n_rot / 2;
    const bool adjacent = by.pairing == FATHOM_ROPE_ADJACENT;
    const uint32_t pair = adjacent ? c / 2 : c % n_pairs;
    const bool is_second = adjacent ? c % 2 != 0 : c >= n_pairs;
    const float *angle = by.cos_sin + 2 * (token * n_pairs + pair);
    const float a = x[adjacent ? 2 * pair : pair];
    const float b = x[adjacent ? 2 * pair + 1 : pair + n_pairs];
    return is_second ? fmaf(a, angle[1], b * angle[0]) : fmaf(a, angle[0], -b * angle[1]);
}

// ---- Keys ---------------------------------------------------------------------------------------

static __host__ __device__ __forceinline__ uint32_t first_key_seen(const dense_attend_args &a)
{
    const uint32_t first_end = a.n_keys >= a.n_tokens ? a.n_keys - a.n_tokens + 1 : 0;
    return a.n_window != 0 && a.n_window < first_end ? first_end - a.n_window : 0;
}

// The job with all that follows from the number of its keys.
static __host__ __device__ __forceinline__ attend_job with_keys(attend_job job, uint32_t n_keys)
{
    job.a.n_keys = n_keys;
    job.first_key = first_key_seen(job.a);
    job.parts.keys = GPU_PART_KEYS(n_keys - job.first_key, job.parts.n);
    return job;
}

static __device__ __forceinline__ attend_job settled(const attend_job &job)
{
    return job.dev_n_keys == NULL ? job : with_keys(job, *job.dev_n_keys);
}

// ---- Rows ---------------------------------------------------------------------------------------

// The keys begin .. end - 1.
struct key_range {
    int begin, end;
};

// What a token sees, by position and window.
static __device__ __forceinline__ key_range token_keys(const dense_attend_args &a, uint32_t token)
{
    const int end = static_cast<int>(a.n_keys - a.n_tokens + token + 1);
    if (end <= 0) return {0, 0};
    const bool is_cut = a.n_window != 0 && a.n_window < static_cast<uint32_t>(end);
    return {is_cut ? end - static_cast<int>(a.n_window) : 0, end};
}

// What a row sees; nothing if there is no such row.
static __device__ __forceinline__ key_range row_keys(const attend_job &job, uint32_t row)
{
    if (row >= job.n_rows) return {0, 0};
    return token_keys(job.a, row / job.group);
}

// What is seen of a part by any of the rows from `row` on.
static __device__ __forceinline__ key_range part_keys(const attend_job &job, uint32_t part,
                                                      uint32_t row, uint32_t n_rows)
{
    const uint32_t last = min(row + n_rows, job.n_rows) - 1;
    const int part_begin = static_cast<int>(job.first_key + part * job.parts.keys);
    return {max(part_begin, row_keys(job, row).begin),
            min(part_begin + static_cast<int>(job.parts.keys), row_keys(job, last).end)};
}

// The keys that all rows of these see.
static __device__ __forceinline__ key_range common_keys(const attend_job &job, uint32_t row,
                                                        uint32_t n_rows)
{
    const uint32_t last = min(row + n_rows, job.n_rows) - 1;
    return {row_keys(job, last).begin, row_keys(job, row).end};
}

static __device__ __forceinline__ rotation query_rotation(const dense_attend_args &a)
{
    return {a.dev_cos_sin, a.n_rot, a.pairing};
}

// A query as it came.
static __device__ __forceinline__ const float *query_row(const attend_job &job, uint32_t kv_head,
                                                         uint32_t row)
{
    const size_t token = row / job.group, head = kv_head * job.group + row % job.group;
    return job.a.dev_q + (token * job.a.n_heads + head) * job.a.d_k;
}

// The place of a row among the results of all parts.
static __device__ __forceinline__ size_t result_row(const attend_job &job, uint32_t kv_head,
                                                    uint32_t part, uint32_t row)
{
    const size_t token = row / job.group, head = kv_head * job.group + row % job.group;
    return (static_cast<size_t>(part) * job.a.n_tokens + token) * job.a.n_heads + head;
}

// ---- Queries in 16 bits -------------------------------------------------------------------------
//
// A query is multiplied with a power of two that brings its greatest value to QUERY_TOP, so that
// nothing overflows and what is lost below is small beside the greatest.

enum { QUERY_TOP = 13, FACTOR_MIN = -100 };

// The power of two for a row whose greatest value is max; the warp's lanes have the same.
static __device__ __forceinline__ int query_exponent(float max)
{
    const int exponent = static_cast<int>(__float_as_uint(max) >> 23 & 0xff) - 127;
    return QUERY_TOP - (exponent > FACTOR_MIN ? exponent : FACTOR_MIN);
}

static __device__ __forceinline__ float power_of_two(int exponent)
{
    return __uint_as_float(static_cast<unsigned>(exponent + 127) << 23);
}

// The exponent of a row's factor, found by a warp together.
static __device__ __forceinline__ int scan_query(const attend_job &job, uint32_t kv_head,
                                                 uint32_t row)
{
    const rotation by = query_rotation(job.a);
    float most = 0;
    if (row < job.n_rows)
        for (uint32_t c = threadIdx.x % GPU_WARP; c < job.a.d_k; c += GPU_WARP)
            most = fmaxf(most,
                         fabsf(turn_value(by, query_row(job, kv_head, row), row / job.group, c)));
    return query_exponent(warp_max(most));
}

// What a product with such a query is multiplied with to get a score in powers of two.
static __device__ __forceinline__ float score_factor(const attend_job &job, int exponent)
{
    const float log2_e = 1.44269504f;
    return job.a.scale * log2_e * power_of_two(-exponent);
}

// ---- Weights ------------------------------------------------------------------------------------
//
// Weights are 2^(score - reference). The reference lies WEIGHT_TOP below the greatest score so far:
// weights of 16 bits reach that far below 1, too.

enum { WEIGHT_TOP = 13 };

static __device__ __forceinline__ float weight_reference(float most)
{
    return most == -INFINITY ? 0 : most - WEIGHT_TOP;
}

// log sum exp, of a sum of weights.
static __device__ __forceinline__ float weight_lse(float reference, float sum)
{
    const float ln_2 = 0.693147181f;
    return sum == 0 ? -INFINITY : fmaf(reference, ln_2, logf(sum));
}

#endif
