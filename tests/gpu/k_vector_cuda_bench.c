// The speed of the kernels that pass over memory once - norms, rotation, activations, rows made
// floats or stored, the best logits - on a device: bytes read and written a second, and what share
// that is of a copy inside the device's memory in the same run.

#include "tests/gpu/gpu_rig.h"

#include "fathom/fathom.h"
#include "gpu/attend_cuda.h"
#include "gpu/logits_cuda.h"
#include "gpu/product_cuda.h"
#include "gpu/product_rows.h"
#include "gpu/vector_cuda.h"
#include "src/base/mem.h"
#include "src/base/rng.h"
#include "tests/gpu/gpu_bench.h"

// A prompt's step in the shape of Llama 3.1 8B, and rows of its weights.
enum { TOKENS = 4096, D = 128, HEADS = 32, KV_HEADS = 8, COLS = D * HEADS, WIDE = 14336 };
enum { LOGITS = 128256, BEST = 64, CALLS = 20, SEED = 4 };
static const size_t n_values = (size_t)TOKENS * WIDE;

struct job {
    float *dev_x, *dev_y, *dev_out; // [TOKENS, WIDE]
    void *dev_scratch;
    int32_t type; // of weights that become floats
};

static void copy(void *arg)
{
    const struct job *job = arg;
    gpu_ok(cudaMemcpyAsync(job->dev_out, job->dev_x, n_values * sizeof(float),
                           cudaMemcpyDeviceToDevice, NULL));
}

static void rmsnorm(void *arg)
{
    const struct job *job = arg;
    const struct rmsnorm_args args = {job->dev_x, job->dev_y, job->dev_out, TOKENS, COLS, 1e-5f};
    gpu_ok(rmsnorm_cuda(&args, NULL));
}

static void rope(void *arg)
{
    const struct job *job = arg;
    const struct rope_args args = {.x = job->dev_out,
                                   .cos_sin = job->dev_y,
                                   .n_tokens = TOKENS,
                                   .n_heads = HEADS,
                                   .d = D,
                                   .n_rot = D,
                                   .pairing = FATHOM_ROPE_HALVES};
    gpu_ok(rope_cuda(&args, NULL));
}

static void swiglu(void *arg)
{
    const struct job *job = arg;
    gpu_ok(swiglu_cuda(job->dev_x, job->dev_y, job->dev_out, n_values, NULL));
}

static void add(void *arg)
{
    const struct job *job = arg;
    gpu_ok(add_cuda(job->dev_out, job->dev_y, TOKENS, COLS, NULL));
}

static void store(void *arg)
{
    const struct job *job = arg;
    const struct store_rows_args args = {.dev_x = job->dev_x,
                                         .n_tokens = TOKENS,
                                         .n_heads = KV_HEADS,
                                         .d = D,
                                         .type = FATHOM_TYPE_F16,
                                         .dev_rows = job->dev_out,
                                         .head_stride_bytes = (size_t)TOKENS * D * 2,
                                         .row_bytes = (size_t)D * 2};
    gpu_ok(store_rows_cuda(&args, NULL, NULL));
}

static void convert(void *arg)
{
    const struct job *job = arg;
    gpu_ok(convert_cuda(FATHOM_TYPE_BF16, job->dev_x, job->dev_out, n_values, NULL));
}

static void dequant(void *arg)
{
    const struct job *job = arg;
    const struct dequant_args args = {.weight = job->dev_x,
                                      .out = job->dev_out,
                                      .n_rows = WIDE,
                                      .n_cols = COLS,
                                      .type = job->type,
                                      .out_type = FATHOM_TYPE_BF16};
    gpu_ok(dequant_cuda(&args, NULL));
}

static void best(void *arg)
{
    const struct job *job = arg;
    gpu_ok(logits_best_cuda(job->dev_x, LOGITS, (struct logit *)job->dev_out, BEST,
                            job->dev_scratch, NULL));
}

static void bench_pass(struct job *job, const char *name, void (*pass)(void *), size_t bytes)
{
    const double seconds = gpu_bench_seconds(pass, job, CALLS);
    const double copied =
        2.0 * (double)n_values * sizeof(float) / gpu_bench_seconds(copy, job, CALLS);
    const double speed = (double)bytes / seconds;
    printf("pass %-14s %8.1f us %7.1f GB/s, %5.1f %% of a copy's %.1f\n", name, 1e6 * seconds,
           1e-9 * speed, 100 * speed / copied, 1e-9 * copied);
}

int gpu_bench_run(const char *which, uint32_t n_sms)
{
    static const struct {
        const char *name;
        int32_t type;
    } weights[] = {{"dequant F16", FATHOM_TYPE_F16},
                   {"dequant Q8_0", FATHOM_TYPE_Q8_0},
                   {"dequant Q4_K", FATHOM_TYPE_Q4_K}};
    const size_t value = sizeof(float), n_narrow = (size_t)TOKENS * COLS;
    struct job job;
    struct rng rng;
    float *x;
    (void)n_sms;
    if (which != NULL) return gpu_bench_no_part(which);
    rng_init(&rng, SEED);
    check_ok(mem_new(n_values, value, "x", &x));
    for (size_t i = 0; i < n_values; i++)
        x[i] = rng_normal(&rng);
    job.dev_x = gpu_put(x, n_values * value);
    job.dev_y = gpu_put(x, n_values * value);
    job.dev_out = gpu_new(n_values * value);
    job.dev_scratch = gpu_new(logits_scratch_bytes(LOGITS, BEST));
    bench_pass(&job, "rmsnorm", rmsnorm, 2 * value * n_narrow);
    bench_pass(&job, "rope", rope, 2 * value * n_narrow + value * TOKENS * D);
    bench_pass(&job, "swiglu", swiglu, 3 * value * n_values);
    bench_pass(&job, "add", add, 2 * value * n_narrow);
    bench_pass(&job, "store F16", store, (value + 2) * TOKENS * KV_HEADS * D);
    bench_pass(&job, "convert BF16", convert, (value + 2) * n_values);
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) {
        job.type = weights[i].type;
        bench_pass(&job, weights[i].name, dequant,
                   WIDE * (product_layout_of(job.type, COLS).row_bytes + 2 * (size_t)COLS));
    }
    bench_pass(&job, "best logits", best, value * LOGITS);
    gpu_ok(cudaFree(job.dev_x));
    gpu_ok(cudaFree(job.dev_y));
    gpu_ok(cudaFree(job.dev_out));
    gpu_ok(cudaFree(job.dev_scratch));
    mem_free(x);
    return 0;
}
