// The speed of dense attention on a device: decoding beside a copy inside the device's memory in
// the same run, prefill in products.

#include "tests/gpu/gpu_rig.h"

#include <math.h>

#include "gpu/attend_cuda.h"
#include "tests/gpu/gpu_bench.h"

enum { N_KV_HEADS = 8, D = 128, GROUP = 4, DECODE_KEYS = 131072, PREFILL_TOKENS = 32768 };
enum { CALLS = 20 };

struct bench_job {
    struct dense_attend_args args;
    uint32_t n_sms;
    void *dev_scratch;
    size_t rows_bytes; // of keys, and of values
};

static void attend_once(void *arg)
{
    const struct bench_job *job = arg;
    gpu_ok(attend_dense_cuda(&job->args, NULL, job->n_sms, job->dev_scratch, NULL));
}

// Keys to values, which are not looked at afterwards: reads and writes rows_bytes.
static void copy_once(void *arg)
{
    const struct bench_job *job = arg;
    gpu_ok(cudaMemcpyAsync((void *)(uintptr_t)job->args.dev_v, job->args.dev_k, job->rows_bytes,
                           cudaMemcpyDeviceToDevice, NULL));
}

static void open_job(struct bench_job *job, int32_t type, uint32_t n_tokens, uint32_t n_keys)
{
    struct dense_attend_args *a = &job->args;
    const size_t row_bytes = 2 * D, n_rows = (size_t)n_tokens * N_KV_HEADS * GROUP;
    job->rows_bytes = N_KV_HEADS * n_keys * row_bytes;
    float *dev_q = gpu_new(n_rows * D * sizeof(float));
    char *dev_k = gpu_new(job->rows_bytes), *dev_v = gpu_new(job->rows_bytes);
    // Small numbers: bytes of 0x2e are 0.1 in f16 and 4e-11 in bf16.
    gpu_ok(cudaMemset(dev_q, 0x2e, n_rows * D * sizeof(float)));
    gpu_ok(cudaMemset(dev_k, 0x2e, job->rows_bytes));
    gpu_ok(cudaMemset(dev_v, 0x2e, job->rows_bytes));
    *a = (struct dense_attend_args){.dev_q = dev_q,
                                    .n_tokens = n_tokens,
                                    .n_heads = N_KV_HEADS * GROUP,
                                    .n_kv_heads = N_KV_HEADS,
                                    .d_k = D,
                                    .d_v = D,
                                    .kv_type = type,
                                    .dev_k = dev_k,
                                    .k_head_stride_bytes = n_keys * row_bytes,
                                    .k_row_bytes = row_bytes,
                                    .dev_v = dev_v,
                                    .v_head_stride_bytes = n_keys * row_bytes,
                                    .v_row_bytes = row_bytes,
                                    .n_keys = n_keys,
                                    .scale = (float)(1 / sqrt(D)),
                                    .dev_out = gpu_new(n_rows * D * sizeof(float)),
                                    .dev_lse = gpu_new(n_rows * sizeof(float))};
    job->dev_scratch = gpu_new(attend_dense_cuda_bytes(a, job->n_sms));
}

static void close_job(struct bench_job *job)
{
    const struct dense_attend_args *a = &job->args;
    const void *blocks[] = {a->dev_q, a->dev_k, a->dev_v, a->dev_out, a->dev_lse, job->dev_scratch};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        gpu_ok(cudaFree((void *)(uintptr_t)blocks[i]));
}

static void bench_decode(struct bench_job *job)
{
    open_job(job, FATHOM_TYPE_F16, 1, DECODE_KEYS);
    const double attend = gpu_bench_seconds(attend_once, job, CALLS),
                 copy = gpu_bench_seconds(copy_once, job, CALLS);
    const double gb = 2e-9 * (double)job->rows_bytes; // keys and values; read and written
    printf(
        "decode   f16  %d keys, %d KV heads of %d, group %d: %7.1f us, %7.1f GB/s, %5.1f %% of a "
        "copy's %.1f\n",
        DECODE_KEYS, N_KV_HEADS, D, GROUP, 1e6 * attend, gb / attend, 100 * copy / attend,
        gb / copy);
    close_job(job);
}

static void bench_prefill(struct bench_job *job)
{
    open_job(job, FATHOM_TYPE_BF16, PREFILL_TOKENS, PREFILL_TOKENS);
    const double attend = gpu_bench_seconds(attend_once, job, 1);
    const double n_seen = 0.5 * PREFILL_TOKENS * (PREFILL_TOKENS + 1.0);
    printf("prefill  bf16 %d tokens, %d KV heads of %d, group %d: %7.2f ms, %6.1f TFLOP/s\n",
           PREFILL_TOKENS, N_KV_HEADS, D, GROUP, 1e3 * attend,
           1e-12 * 4 * D * n_seen * N_KV_HEADS * GROUP / attend);
    close_job(job);
}

int gpu_bench_run(const char *which, uint32_t n_sms)
{
    if (which != NULL) return gpu_bench_no_part(which);
    struct bench_job job = {.n_sms = n_sms};
    gpu_ok(attend_open_cuda());
    bench_decode(&job);
    bench_prefill(&job);
    return 0;
}
