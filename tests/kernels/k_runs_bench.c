// The speed of attention over runs of rows: from memory, as a share of what reading the same runs
// and reading without gaps get in the same run; and in cache, in cycles for a pair of rows.

#include "tests/kernels/k_runs.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cpu/cpu_kernels.h"
#include "cpu/ladder.h"
#include "src/base/mem.h"
#include "tests/kernels/k_bench.h"

enum { N_THREADS = 2, N_CALLS = 16 };
static const size_t all_bytes = 512u << 20;  // of rows: far beyond the caches
static const size_t used_bytes = 160u << 20; // of them are attended to
static const size_t warm_bytes = 256u << 10; // stay in the second-level cache

struct runs_job {
    const struct kernel_table *table;
    struct attend_runs_args args; // of thread 0; n_runs of each call
    uint32_t n_calls;
    uint32_t n_passes;           // over the runs of a call
    uint64_t sums[N_THREADS][8]; // a cache line apart
};

// Each thread has calls of its own.
static void attend_calls(void *arg, uint32_t thread, uint32_t n_threads)
{
    const struct runs_job *job = arg;
    struct attend_runs_args a = job->args;
    a.o += thread * a.group * a.format.d_v;
    a.lse += thread * a.group;
    a.scratch = (char *)a.scratch + thread * ATTEND_SCRATCH_BYTES;
    for (uint32_t call = thread; call < job->n_calls; call += n_threads) {
        a.runs = job->args.runs + (size_t)call * a.n_runs;
        for (uint32_t pass = 0; pass < job->n_passes; pass++)
            job->table->kv.attend_runs(&a);
    }
}

static void read_calls(void *arg, uint32_t thread, uint32_t n_threads)
{
    struct runs_job *job = arg;
    const size_t k_bytes = kv_k_row_bytes(&job->args.format);
    const size_t v_bytes = kv_v_row_bytes(&job->args.format);
    uint64_t sum = 0;
    for (uint32_t call = thread; call < job->n_calls; call += n_threads)
        for (uint32_t r = 0; r < job->args.n_runs; r++) {
            const struct kv_run *run = &job->args.runs[(size_t)call * job->args.n_runs + r];
            sum += sum_words(run->k, run->n_rows * k_bytes / 8);
            sum += sum_words(run->v, run->n_rows * v_bytes / 8);
        }
    job->sums[thread][0] = sum;
}

// Multiplying and adding takes 4 cycles on the processors that the variants are for.
static double measure_ghz(void)
{
    enum { STEPS = 20000000 };
    uint64_t begin = clock_ns();
    volatile uint64_t seed = 1;
    uint64_t x = seed;
    for (int i = 0; i < STEPS; i++)
        x = x * 6364136223846793005u + 1442695040888963407u;
    seed = x;
    return 4.0 * STEPS / (double)(clock_ns() - begin);
}

// n_rows random rows in units of unit_rows: [K rows][V rows], in random order, from `bytes` of
// rows. Returns how many runs there are.
static uint32_t place_units(struct rng *rng, const struct kv_format *f, const char *rows,
                            size_t bytes, size_t bytes_used, uint32_t unit_rows,
                            struct kv_run *runs)
{
    const size_t pair_bytes = kv_k_row_bytes(f) + kv_v_row_bytes(f);
    const size_t unit_bytes = pair_bytes * unit_rows;
    uint32_t n_units = (uint32_t)(bytes / unit_bytes);
    for (uint32_t i = 0; i < n_units; i++) {
        const char *unit = rows + i * unit_bytes;
        runs[i] = (struct kv_run){unit, unit + unit_rows * kv_k_row_bytes(f), unit_rows};
    }
    for (uint32_t i = n_units; i > 1; i--) {
        uint32_t other = rng_below(rng, i);
        struct kv_run swap = runs[i - 1];
        runs[i - 1] = runs[other];
        runs[other] = swap;
    }
    uint32_t n = (uint32_t)(bytes_used / unit_bytes);
    return n < n_units ? n : n_units;
}

static void bench_case(struct pool *pool, struct runs_job *job, const char *variant,
                       uint32_t unit_rows, const char *rows, struct kv_run *runs)
{
    struct attend_runs_args *a = &job->args;
    const struct kv_format *f = &a->format;
    struct rng rng;
    rng_init(&rng, 1);
    const double pair_bytes = (double)(kv_k_row_bytes(f) + kv_v_row_bytes(f));
    a->runs = runs;
    job->n_calls = N_CALLS;
    job->n_passes = 1;
    a->n_runs = place_units(&rng, f, rows, all_bytes, used_bytes, unit_rows, runs) / N_CALLS;
    double pairs = (double)a->n_runs * N_CALLS * unit_rows;
    double read_gbps = bench_read_gbps(pool, rows, used_bytes);
    double gather_ns = bench_ns(pool, read_calls, job);
    double ns = bench_ns(pool, attend_calls, job);
    // In cache: each thread goes over its rows again and again.
    job->n_calls = N_THREADS;
    job->n_passes = 20;
    a->n_runs = place_units(&rng, f, rows, N_THREADS * warm_bytes, N_THREADS * warm_bytes,
                            unit_rows, runs) /
                N_THREADS;
    double warm_pairs = (double)a->n_runs * unit_rows * job->n_passes;
    double warm_ns = a->n_runs == 0 ? 0 : bench_ns(pool, attend_calls, job) / warm_pairs;
    printf("%-11s %-4s d %-3u group %u runs of %-5u %6.1f ns/pair %6.1f GB/s %5.1f %% of gathering "
           "%5.1f %% of reading, %5.1f GB/s; in cache %5.1f ns %5.1f cycles\n",
           variant,
           f->bits == 8   ? "q8"
           : f->bits == 4 ? "q4"
                          : "f16",
           f->d_k, a->group, unit_rows, N_THREADS * ns / pairs, pairs * pair_bytes / ns,
           100 * gather_ns / ns, 100 * pairs * pair_bytes / ns / read_gbps, read_gbps, warm_ns,
           warm_ns * measure_ghz());
}

static void bench_variant(struct pool *pool, struct runs_job *job, const char *variant,
                          const char *rows, struct kv_run *runs)
{
    static const uint32_t unit_rows[] = {16, 1, 8192}, bits[] = {0, 8, 4};
    static const struct {
        uint32_t d, group;
    } shapes[] = {{64, 4}, {128, 4}, {128, 8}};
    for (uint32_t i = 0; i < COUNT(shapes); i++)
        for (uint32_t b = 0; b < COUNT(bits); b++)
            for (uint32_t n = 0; n < COUNT(unit_rows); n++) {
                const uint32_t d = shapes[i].d;
                job->args.format = (struct kv_format){bits[b], FATHOM_TYPE_F16, d, d};
                job->args.group = shapes[i].group;
                job->args.scale = (float)(1 / sqrt(d));
                bench_case(pool, job, variant, unit_rows[n], rows, runs);
            }
}

// Small f16 numbers of either sign; as codes they are as good as any.
static void fill_rows(char *rows)
{
    struct rng rng;
    rng_init(&rng, 2);
    for (size_t i = 0; i < all_bytes; i += 8) {
        uint64_t word = (rng_u64(&rng) & 0x8fff8fff8fff8fff) | 0x3000300030003000;
        memcpy(rows + i, &word, 8);
    }
}

int runs_bench(void)
{
    enum { VALUES = 8 * 256, PAIR_BYTES_MIN = 40 };
    const struct pool_params params = {.n_threads = N_THREADS};
    struct pool *pool = NULL;
    void *rows = NULL;
    struct kv_run *runs = NULL;
    float *values = NULL; // q, k_min, k_step; o, lse of each thread
    struct kernel_table table;
    struct runs_job job = {.table = &table, .args = {.n_tokens = 1}};
    if (pool_open(&params, &pool) < 0 ||
        mem_reserve(all_bytes, MEM_PAGES_HUGE, "rows", &rows) < 0 ||
        mem_new(all_bytes / PAIR_BYTES_MIN, sizeof *runs, "runs", &runs) < 0 ||
        mem_new((3 + 2 * N_THREADS) * VALUES, sizeof *values, "values", &values) < 0 ||
        mem_new(N_THREADS, ATTEND_SCRATCH_BYTES, "scratch", &job.args.scratch) < 0) {
        fprintf(stderr, "k_runs: %s\n", fathom_last_error());
        return 1;
    }
    fill_rows(rows);
    struct rng rng;
    rng_init(&rng, 3);
    for (size_t i = 0; i < 3 * VALUES; i++)
        values[i] = 0.05f * rng_normal(&rng);
    job.args.q = values;
    job.args.k_min = values + VALUES;
    job.args.k_step = values + 2 * VALUES;
    job.args.o = values + 3 * VALUES;
    job.args.lse = values + (3 + N_THREADS) * VALUES;
    for (int variant = 1; variant < RUNS_VARIANTS; variant++)
        if (runs_variant(variant, &table)) bench_variant(pool, &job, table.name, rows, runs);
    mem_free(job.args.scratch);
    mem_free(values);
    mem_free(runs);
    mem_unreserve(rows, all_bytes);
    pool_close(&pool);
    return 0;
}
