// Dense attention: which kernel takes a call, into how many parts its keys are cut, and the merging
// of these.
//
//     kernel    takes                                             rows of a tile
//     decode    f16 and bf16, few rows, 16-byte rows              8, or 16 where there are so many
//     prefill   f16 and bf16, many rows, 16-byte rows             64
//     plain     f32, and rows that do not lie or end on 16 bytes  8
//
// Bytes moved: keys and values once for each tile of a KV head's rows, which is once in decoding
// with up to 8 query heads to a KV head (16 up to 128 channels). Partials: 4 (d_v + 1) a row and
// part, written and read.

#include "gpu/attend_cuda.h"

#include <assert.h>

#include "gpu/attend.cuh"

enum { VECTOR_BYTES = 16, VECTOR_VALUES = 8, CHANNELS_MAX = 256 };

static bool are_vectors(const void *rows, size_t head_stride_bytes, size_t row_bytes, uint32_t d)
{
    return (reinterpret_cast<uintptr_t>(rows) | head_stride_bytes | row_bytes) % VECTOR_BYTES ==
               0 &&
           d % VECTOR_VALUES == 0 && d <= CHANNELS_MAX;
}

enum attend_kind { ATTEND_PLAIN, ATTEND_DECODE, ATTEND_PREFILL };

static attend_kind choose_kind(const dense_attend_args &a)
{
    if (a.kv_type == FATHOM_TYPE_F32 ||
        !are_vectors(a.dev_k, a.k_head_stride_bytes, a.k_row_bytes, a.d_k) ||
        !are_vectors(a.dev_v, a.v_head_stride_bytes, a.v_row_bytes, a.d_v))
        return ATTEND_PLAIN;
    const size_t n_rows = static_cast<size_t>(a.n_tokens) * (a.n_heads / a.n_kv_heads);
    return n_rows <= DECODE_ROWS_MAX ? ATTEND_DECODE : ATTEND_PREFILL;
}

// Units of work that a multiprocessor has at once: warps, or blocks in prefill.
static size_t units_wanted(attend_kind kind, uint32_t n_sms)
{
    const size_t n_warps = 12, n_blocks = 2;
    return n_sms * (kind == ATTEND_PREFILL ? n_blocks : n_warps);
}

static uint32_t rows_of_tile(attend_kind kind, const dense_attend_args &a)
{
    if (kind == ATTEND_PREFILL) return PREFILL_ROWS;
    return kind == ATTEND_DECODE ? attend_decode_rows(a) : +PLAIN_ROWS;
}

uint32_t attend_reach_cuda(const struct dense_attend_args *args)
{
    const uint32_t n_seen = args->n_keys - first_key_seen(*args);
    uint32_t reach = GPU_PART_STEP;
    assert(n_seen <= 1u << 31);
    while (reach < n_seen)
        reach *= 2;
    return reach;
}

static attend_job plan_job(const dense_attend_args &a, attend_kind kind, uint32_t n_sms)
{
    // Of the reach, which is less than twice the keys: parts have 64 and 256 at least.
    const uint32_t least_keys = 128, prefill_least_keys = 512;
    attend_job job = {};
    job.a = a;
    job.group = a.n_heads / a.n_kv_heads;
    job.n_rows = a.n_tokens * job.group;
    const uint32_t tile = rows_of_tile(kind, a);
    job.n_tiles = (job.n_rows + tile - 1) / tile;
    job.parts = gpu_cut_keys(attend_reach_cuda(&a), static_cast<size_t>(job.n_tiles) * a.n_kv_heads,
                             units_wanted(kind, n_sms),
                             kind == ATTEND_PREFILL ? prefill_least_keys : least_keys);
    return with_keys(job, a.n_keys);
}

size_t attend_dense_cuda_bytes(const struct dense_attend_args *args, uint32_t n_sms)
{
    const size_t n_rows = static_cast<size_t>(args->n_tokens) * args->n_heads;
    if (n_rows == 0) return 0;
    const attend_job job = plan_job(*args, choose_kind(*args), n_sms);
    return job.parts.n == 1 ? 0 : job.parts.n * n_rows * (args->d_v + 1) * sizeof(float);
}

static cudaError_t merge_parts(const attend_job &job, cudaStream_t stream)
{
    const size_t n_rows = static_cast<size_t>(job.a.n_tokens) * job.a.n_heads;
    merge_args merge = {};
    merge.n_parts = job.parts.n;
    merge.n_rows = n_rows;
    merge.d_v = job.a.d_v;
    merge.o = job.o;
    merge.part_stride_o = n_rows * job.a.d_v;
    merge.lse = job.lse;
    merge.part_stride_lse = n_rows;
    merge.out_o = job.a.dev_out;
    merge.out_lse = job.a.dev_lse;
    return merge_cuda(&merge, stream);
}

cudaError_t attend_open_cuda(void)
{
    return attend_prefill_open();
}

cudaError_t attend_dense_cuda(const struct dense_attend_args *args, const uint32_t *dev_n_keys,
                              uint32_t n_sms, void *dev_scratch, cudaStream_t stream)
{
    const size_t n_rows = static_cast<size_t>(args->n_tokens) * args->n_heads;
    if (n_rows == 0) return cudaSuccess;
    const attend_kind kind = choose_kind(*args);
    attend_job job = plan_job(*args, kind, n_sms);
    job.dev_n_keys = dev_n_keys;
    job.o = job.parts.n == 1 ? args->dev_out : static_cast<float *>(dev_scratch);
    job.lse = job.parts.n == 1 ? args->dev_lse : job.o + job.parts.n * n_rows * args->d_v;
    const cudaError_t error = kind == ATTEND_PREFILL  ? attend_prefill(job, stream)
                              : kind == ATTEND_DECODE ? attend_decode(job, stream)
                                                      : attend_plain(job, stream);
    return error != cudaSuccess || job.parts.n == 1 ? error : merge_parts(job, stream);
}
