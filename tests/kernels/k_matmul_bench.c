// Speed of the matrix products, beside the speed of reading memory in the same run: packing, decode
// (one token, weights far larger than the caches) and prefill (weights that stay in them).
//
// Threads share the panels in equal parts, as a device does.

#include <string.h>

#include "src/base/clock.h"
#include "src/base/dtype.h"
#include "src/base/mem.h"
#include "src/base/pool.h"
#include "tests/check.h"
#include "tests/kernels/k_bench.h"
#include "tests/kernels/k_matmul.h"

enum {
    N_THREADS = 2,
    N_RUNS = 7,
    DECODE_COLS = 4096,
    PREFILL_COLS = 2048,
    PREFILL_ROWS = 2048,
    PREFILL_TOKENS = 512,
};
static const size_t read_bytes = 512ull << 20;
static const size_t decode_bytes = 512ull << 20;

struct product_job {
    const struct matmul_kernel *kernel;
    struct matmul_args args; // of the whole product
};

static void run_share(void *arg, uint32_t thread, uint32_t n_threads)
{
    const struct product_job *job = arg;
    struct matmul_args args = job->args;
    uint32_t panel_rows = job->kernel->panel_rows;
    uint32_t n_panels = (args.n_rows + panel_rows - 1) / panel_rows;
    uint32_t begin = n_panels * thread / n_threads * panel_rows;
    uint32_t end = n_panels * (thread + 1) / n_threads * panel_rows;
    args.panels =
        (const uint8_t *)args.panels + begin / panel_rows * job->kernel->panel_bytes(args.n_cols);
    args.n_rows = (end < args.n_rows ? end : args.n_rows) - begin;
    args.out += begin;
    job->kernel->run(&args);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values)
{
    qsort(values, N_RUNS, sizeof values[0], by_value);
    return values[N_RUNS / 2];
}

static double seconds_of(struct pool *pool, pool_fn fn, void *arg)
{
    uint64_t start = clock_ns();
    pool_run(pool, fn, arg);
    return 1e-9 * (double)(clock_ns() - start);
}

// The product of random tokens with n_rows rows, all panels copies of one. Closed with close_job.
static double open_job(struct product_job *job, const struct matmul_kernel *kernel, int32_t type,
                       uint32_t n_rows, uint32_t n_cols, uint32_t n_tokens)
{
    struct rng rng;
    uint8_t *rows, *panels, *x;
    void *reserved;
    float *values, *out;
    size_t row_bytes = dtype_row_bytes(type, n_cols);
    size_t panel_bytes = kernel->panel_bytes(n_cols);
    size_t n_panels = n_rows / kernel->panel_rows;
    rng_init(&rng, SEED);
    check_ok(mem_new(kernel->panel_rows, row_bytes, "rows", &rows));
    check_ok(mem_new(n_cols, sizeof *values, "x", &values));
    check_ok(mem_new(n_tokens, kernel->x_row_bytes(n_cols), "packed x", &x));
    check_ok(mem_new((size_t)n_tokens * n_rows, sizeof *out, "out", &out));
    check_ok(mem_reserve(n_panels * panel_bytes, MEM_PAGES_HUGE, "panels", &reserved));
    panels = reserved;
    problem_random_rows(type, rows, kernel->panel_rows, n_cols, &rng);
    kernel->pack_panel(panels, rows, kernel->panel_rows, n_cols);
    uint64_t start = clock_ns();
    kernel->pack_panel(panels, rows, kernel->panel_rows, n_cols);
    double pack_speed =
        (double)(kernel->panel_rows * row_bytes) * 1e9 / (double)(clock_ns() - start);
    for (size_t i = 1; i < n_panels; i++)
        memcpy(panels + i * panel_bytes, panels, panel_bytes);
    for (size_t t = 0; t < n_tokens; t++) {
        for (uint32_t i = 0; i < n_cols; i++)
            values[i] = rng_normal(&rng);
        kernel->pack_x(x + t * kernel->x_row_bytes(n_cols), values, n_cols);
    }
    mem_free(rows);
    mem_free(values);
    *job =
        (struct product_job){kernel, {panels, n_rows, n_cols, n_tokens, x, out, n_rows, NULL, 0}};
    return pack_speed;
}

static void close_job(struct product_job *job)
{
    uintptr_t panels = (uintptr_t)job->args.panels, x = (uintptr_t)job->args.x;
    mem_unreserve((void *)panels, job->args.n_rows / job->kernel->panel_rows *
                                      job->kernel->panel_bytes(job->args.n_cols));
    mem_free((void *)x);
    mem_free(job->args.out);
}

// Each run follows a read of memory, so that what else the machine does meets both alike.
static void bench_decode(struct pool *pool, struct read_job *read, struct product_job *job)
{
    double read_speeds[N_RUNS], speeds[N_RUNS], shares[N_RUNS];
    double bytes = (double)(job->args.n_rows / job->kernel->panel_rows *
                            job->kernel->panel_bytes(job->args.n_cols));
    seconds_of(pool, run_share, job);
    for (size_t i = 0; i < N_RUNS; i++) {
        read_speeds[i] = 8e-9 * (double)read->n / seconds_of(pool, read_share, read);
        speeds[i] = 1e-9 * bytes / seconds_of(pool, run_share, job);
        shares[i] = speeds[i] / read_speeds[i];
    }
    printf("read %5.1f GB/s, decode %5.1f GB/s = %3.0f %%, ", median(read_speeds), median(speeds),
           100.0 * median(shares));
}

static void bench_prefill(struct pool *pool, struct product_job *job)
{
    double speeds[N_RUNS];
    seconds_of(pool, run_share, job);
    for (size_t i = 0; i < N_RUNS; i++)
        speeds[i] =
            2e-9 * PREFILL_ROWS * PREFILL_COLS * PREFILL_TOKENS / seconds_of(pool, run_share, job);
    printf("prefill %6.1f GFLOP/s\n", median(speeds));
}

static void bench_kernel(struct pool *pool, struct read_job *read, const char *variant,
                         int32_t type, const struct matmul_kernel *kernel)
{
    struct product_job job;
    double file_bytes = (double)kernel->panel_rows * (double)dtype_row_bytes(type, DECODE_COLS);
    size_t panel_bytes = kernel->panel_bytes(DECODE_COLS);
    uint32_t n_rows = (uint32_t)(decode_bytes / panel_bytes) * kernel->panel_rows;
    double pack_speed = open_job(&job, kernel, type, n_rows, DECODE_COLS, 1);
    printf("%-5s %-7s panel %5.3f of file, pack %5.2f GB/s, ", dtype_find(type)->name, variant,
           (double)panel_bytes / file_bytes, pack_speed / 1e9);
    bench_decode(pool, read, &job);
    close_job(&job);
    open_job(&job, kernel, type, PREFILL_ROWS, PREFILL_COLS, PREFILL_TOKENS);
    bench_prefill(pool, &job);
    close_job(&job);
    fflush(stdout);
}

int matmul_bench(int32_t type)
{
    const struct pool_params params = {.n_threads = N_THREADS};
    struct pool *pool;
    size_t n_types;
    const struct dtype *dtypes = dtype_all(&n_types);
    struct read_job read = {.n = read_bytes / 8};
    void *words;
    check_ok(pool_open(&params, &pool));
    check_ok(mem_reserve(read_bytes, MEM_PAGES_HUGE, "read buffer", &words));
    memset(words, 1, read_bytes);
    read.words = words;
    printf("%d threads, medians of %d\n", N_THREADS, N_RUNS);
    for (size_t i = 0; i < n_types; i++)
        for (uint32_t v = 1; v < MATMUL_VARIANTS; v++) { // the reference is not meant to be fast
            struct matmul_kernel kernel;
            if (type >= 0 && dtypes[i].type != type) continue;
            if (!matmul_variant_kernel(v, dtypes[i].type, &kernel)) continue;
            bench_kernel(pool, &read, matmul_variants[v].name, dtypes[i].type, &kernel);
        }
    mem_unreserve(words, read_bytes);
    pool_close(&pool);
    return 0;
}
