// The speed of attention over runs on a device: bytes of picked rows read a second, and what share
// that is of a copy inside the device's memory in the same run (which moves each byte twice).

#include "tests/gpu/gpu_rig.h"

#include <math.h>

#include "gpu/runs_cuda.h"
#include "src/base/rng.h"
#include "tests/gpu/gpu_bench.h"

enum { N_KV_HEADS = 8, D = 128, GROUP = 4, N_ROWS = 131072, SEED = 3 };
enum { CALLS = 20, COPY_BYTES = 512 << 20 };

struct bench_job {
    struct runs_args_cuda args;
    uint32_t n_sms;
    char *dev_k, *dev_v;
    size_t k_bytes, v_bytes; // of all heads' rows
    float *dev_ranges;       // ones, for k_min and k_step
    void *dev_runs, *dev_heads, *dev_scratch;
    char *dev_copy; // twice COPY_BYTES, of which one half is copied to the other
};

static void attend_once(void *arg)
{
    const struct bench_job *job = arg;
    gpu_ok(attend_runs_cuda(&job->args, job->n_sms, job->dev_scratch, NULL));
}

static void copy_once(void *arg)
{
    const struct bench_job *job = arg;
    gpu_ok(cudaMemcpyAsync(job->dev_copy + COPY_BYTES, job->dev_copy, COPY_BYTES,
                           cudaMemcpyDeviceToDevice, NULL));
}

// Every head has all rows of its own, in runs that lie in no order.
static void put_runs(struct bench_job *job, uint32_t run_rows)
{
    const uint32_t n_runs = N_ROWS / run_rows;
    const size_t k_row = job->k_bytes / N_KV_HEADS / N_ROWS;
    const size_t v_row = job->v_bytes / N_KV_HEADS / N_ROWS;
    struct run_cuda *runs = malloc(N_KV_HEADS * n_runs * sizeof *runs);
    struct runs_head_cuda heads[N_KV_HEADS];
    struct rng rng;
    assert_non_null(runs);
    rng_init(&rng, SEED);
    for (uint32_t head = 0; head < N_KV_HEADS; head++) {
        struct run_cuda *own = runs + head * n_runs;
        for (uint32_t i = 0; i < n_runs; i++) {
            const size_t row = (size_t)head * N_ROWS + i * run_rows;
            own[i] = (struct run_cuda){job->dev_k + row * k_row, job->dev_v + row * v_row,
                                       i * run_rows, run_rows};
            const uint32_t other = rng_below(&rng, i + 1);
            const struct run_cuda swapped = own[other];
            own[other].dev_k = own[i].dev_k, own[other].dev_v = own[i].dev_v;
            own[i].dev_k = swapped.dev_k, own[i].dev_v = swapped.dev_v;
        }
    }
    job->dev_runs = gpu_put(runs, N_KV_HEADS * n_runs * sizeof *runs);
    for (uint32_t head = 0; head < N_KV_HEADS; head++)
        heads[head] =
            (struct runs_head_cuda){(const struct run_cuda *)job->dev_runs + head * n_runs, n_runs,
                                    job->dev_ranges, job->dev_ranges};
    job->dev_heads = gpu_put(heads, sizeof heads);
    free(runs);
}

static void open_job(struct bench_job *job, const struct kv_format *format, uint32_t run_rows)
{
    float ones[D];
    for (int i = 0; i < D; i++)
        ones[i] = 1;
    job->k_bytes = N_KV_HEADS * (size_t)N_ROWS * kv_k_row_bytes(format);
    job->v_bytes = N_KV_HEADS * (size_t)N_ROWS * kv_v_row_bytes(format);
    job->dev_k = gpu_new(job->k_bytes);
    job->dev_v = gpu_new(job->v_bytes);
    // Small numbers: bytes of 0x2e are 0.1 in f16.
    gpu_ok(cudaMemset(job->dev_k, 0x2e, job->k_bytes));
    gpu_ok(cudaMemset(job->dev_v, 0x2e, job->v_bytes));
    job->dev_ranges = gpu_put(ones, sizeof ones);
    put_runs(job, run_rows);
    float *dev_q = gpu_new(N_KV_HEADS * GROUP * D * sizeof(float));
    gpu_ok(cudaMemset(dev_q, 0x2e, N_KV_HEADS * GROUP * D * sizeof(float)));
    job->args = (struct runs_args_cuda){
        .dev_q = dev_q,
        .n_tokens = 1,
        .n_kv_heads = N_KV_HEADS,
        .group = GROUP,
        .format = *format,
        .dev_heads = job->dev_heads,
        .n_rows = N_ROWS,
        .scale = (float)(1 / sqrt(D)),
        .dev_o = gpu_new(N_KV_HEADS * GROUP * D * sizeof(float)),
        .dev_lse = gpu_new(N_KV_HEADS * GROUP * sizeof(float)),
    };
    job->dev_scratch = gpu_new(attend_runs_cuda_bytes(&job->args, job->n_sms));
}

static void close_job(struct bench_job *job)
{
    const void *blocks[] = {job->dev_k,      job->dev_v,      job->dev_ranges,
                            job->dev_runs,   job->dev_heads,  job->dev_scratch,
                            job->args.dev_q, job->args.dev_o, job->args.dev_lse};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        gpu_ok(cudaFree((void *)(uintptr_t)blocks[i]));
}

int gpu_bench_run(const char *which, uint32_t n_sms)
{
    static const struct {
        const char *name;
        struct kv_format format;
    } cases[] = {
        {"f16", {0, FATHOM_TYPE_F16, D, D}},
        {"q8", {8, FATHOM_TYPE_F16, D, D}},
        {"q4", {4, FATHOM_TYPE_F16, D, D}},
        {"q2", {2, FATHOM_TYPE_F16, D, D}},
    };
    static const uint32_t run_rows[] = {1, 16, 8192};
    if (which != NULL) return gpu_bench_no_part(which);
    struct bench_job job = {.n_sms = n_sms, .dev_copy = gpu_new(2 * (size_t)COPY_BYTES)};
    printf("%d rows of %d in each of %d KV heads, group %d\n", N_ROWS, D, N_KV_HEADS, GROUP);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (size_t r = 0; r < sizeof run_rows / sizeof run_rows[0]; r++) {
            open_job(&job, &cases[i].format, run_rows[r]);
            const double attend = gpu_bench_seconds(attend_once, &job, CALLS),
                         copy = gpu_bench_seconds(copy_once, &job, CALLS);
            const double read = 1e-9 * (double)(job.k_bytes + job.v_bytes) / attend;
            const double copied = 1e-9 * 2 * COPY_BYTES / copy;
            printf("runs of %-4u %-3s %8.1f us %7.1f GB/s, %5.1f %% of a copy's %.1f\n",
                   run_rows[r], cases[i].name, 1e6 * attend, read, 100 * read / copied, copied);
            close_job(&job);
        }
    gpu_ok(cudaFree(job.dev_copy));
    return 0;
}
