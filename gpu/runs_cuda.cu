// Attention over runs: which kernel takes a call, into how many parts its keys are cut, and the
// merging of these, and of what was there before, which is one part more.
//
//     kernel    takes                                       rows of a tile
//     decode    codes, and f16 and bf16 in 16-byte rows     8, or 16 where there are so many
//     plain     f32, and rows that do not end on 16 bytes   8
//
// Bytes moved: rows of K and V once for each tile of a KV head's rows, and 24 a run; partials:
// 4 (d_v + 1) a row and part, written and read.

#include "gpu/runs_cuda.h"

#include "gpu/runs.cuh"

enum { VECTOR_VALUES = 8, LEAST_KEYS = 64, WARPS_WANTED = 12 };

static bool is_for_decode(const kv_format &format)
{
    if (format.bits != 0) return true;
    return format.type != FATHOM_TYPE_F32 && format.d_k % VECTOR_VALUES == 0 &&
           format.d_v % VECTOR_VALUES == 0;
}

static runs_job plan_job(const runs_args_cuda &args, uint32_t n_sms)
{
    runs_job runs = {};
    attend_job &job = runs.job;
    job.a.dev_q = args.dev_q;
    job.a.n_tokens = args.n_tokens;
    job.a.n_heads = args.n_kv_heads * args.group;
    job.a.n_kv_heads = args.n_kv_heads;
    job.a.d_k = args.format.d_k;
    job.a.d_v = args.format.d_v;
    job.a.kv_type = args.format.type;
    job.a.scale = args.scale;
    job.group = args.group;
    job.n_rows = args.n_tokens * args.group;
    const uint32_t tile = is_for_decode(args.format) ? attend_decode_rows(job.a) : +PLAIN_ROWS;
    job.n_tiles = (job.n_rows + tile - 1) / tile;
    job.parts = gpu_cut_keys(args.n_rows, static_cast<size_t>(job.n_tiles) * args.n_kv_heads,
                             static_cast<size_t>(n_sms) * WARPS_WANTED, LEAST_KEYS);
    runs.dev_heads = args.dev_heads;
    runs.bits = args.format.bits;
    runs.k_row_bytes = static_cast<uint32_t>(kv_k_row_bytes(&args.format));
    runs.v_row_bytes = static_cast<uint32_t>(kv_v_row_bytes(&args.format));
    return runs;
}

// Query rows of all KV heads.
static size_t count_rows(const runs_args_cuda &args)
{
    return static_cast<size_t>(args.n_tokens) * args.n_kv_heads * args.group;
}

// Partials: those of the parts, and of what was there.
static uint32_t count_partials(const runs_args_cuda &args, const runs_job &runs)
{
    return runs.job.parts.n + (args.accumulate ? 1 : 0);
}

size_t attend_runs_cuda_bytes(const struct runs_args_cuda *args, uint32_t n_sms)
{
    if (count_rows(*args) == 0) return 0;
    const uint32_t n = count_partials(*args, plan_job(*args, n_sms));
    return n == 1 ? 0 : n * count_rows(*args) * (args->format.d_v + 1) * sizeof(float);
}

// Takes what was there, which is the last of the partials.
static cudaError_t take_before(const runs_args_cuda &args, const runs_job &runs,
                               cudaStream_t stream)
{
    const size_t n_rows = count_rows(args), n_values = n_rows * args.format.d_v;
    const cudaError_t error =
        cudaMemcpyAsync(runs.job.o + runs.job.parts.n * n_values, args.dev_o,
                        n_values * sizeof(float), cudaMemcpyDeviceToDevice, stream);
    if (error != cudaSuccess) return error;
    return cudaMemcpyAsync(runs.job.lse + runs.job.parts.n * n_rows, args.dev_lse,
                           n_rows * sizeof(float), cudaMemcpyDeviceToDevice, stream);
}

static cudaError_t merge_partials(const runs_args_cuda &args, const runs_job &runs,
                                  cudaStream_t stream)
{
    merge_args merge = {};
    merge.n_parts = count_partials(args, runs);
    merge.n_rows = count_rows(args);
    merge.d_v = args.format.d_v;
    merge.o = runs.job.o;
    merge.part_stride_o = merge.n_rows * merge.d_v;
    merge.lse = runs.job.lse;
    merge.part_stride_lse = merge.n_rows;
    merge.out_o = args.dev_o;
    merge.out_lse = args.dev_lse;
    return merge_cuda(&merge, stream);
}

cudaError_t attend_runs_cuda(const struct runs_args_cuda *args, uint32_t n_sms, void *dev_scratch,
                             cudaStream_t stream)
{
    const size_t n_rows = count_rows(*args);
    if (n_rows == 0 || (args->n_rows == 0 && args->accumulate)) return cudaSuccess;
    runs_job runs = plan_job(*args, n_sms);
    const uint32_t n = count_partials(*args, runs);
    runs.job.o = n == 1 ? args->dev_o : static_cast<float *>(dev_scratch);
    runs.job.lse = n == 1 ? args->dev_lse : runs.job.o + n * n_rows * args->format.d_v;
    if (args->accumulate) {
        const cudaError_t error = take_before(*args, runs, stream);
        if (error != cudaSuccess) return error;
    }
    const cudaError_t error =
        is_for_decode(args->format) ? runs_decode(runs, stream) : runs_plain(runs, stream);
    return error != cudaSuccess || n == 1 ? error : merge_partials(*args, runs, stream);
}
