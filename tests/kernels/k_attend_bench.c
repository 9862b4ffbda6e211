// The speed of attention: decoding as a share of the memory's read bandwidth, prefill as a share of
// the multiply-adds that the registers can do, both measured in the same run.
//
// Decoding and reading take turns, and count the processor time of the thread that needs most:
// other programs of a busy machine hardly shift their ratio. Rows that stay in the cache show what
// the arithmetic alone allows.

#include "tests/kernels/k_attend.h"

#include <math.h>
#include <stdio.h>
#include <time.h>

#include "cpu/cpu_kernels.h"
#include "cpu/ladder.h"
#include "src/base/mem.h"
#include "tests/kernels/k_bench.h"

enum { N_HEADS = 8, N_THREADS = 2 };
static const size_t half_bytes = 256u << 20;   // of K, and of V: far beyond the caches
static const size_t cached_bytes = 128u << 10; // of K, and of V, of a head: in a second-level cache

struct decode_job {
    const struct kernel_table *table;
    struct attend_args args; // of head 0; the scratch of all threads
    uint32_t n_repeats;
    struct read_job read;       // of all rows
    uint64_t cpu_ns[N_THREADS]; // that each thread's share took
};

static uint64_t cpu_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

// Each thread has KV heads of its own.
static void attend_heads(void *arg, uint32_t thread, uint32_t n_threads)
{
    struct decode_job *job = arg;
    uint64_t begin = cpu_ns();
    for (uint32_t head = thread; head < N_HEADS; head += n_threads) {
        struct attend_args a = job->args;
        a.k = (const char *)a.k + head * a.n_keys * a.k_stride_bytes;
        a.v = (const char *)a.v + head * a.n_keys * a.v_stride_bytes;
        a.q += head * a.n_tokens * a.q_stride;
        a.o += head * a.n_tokens * a.o_stride;
        a.lse += head * a.n_tokens * a.lse_stride;
        a.scratch = (char *)a.scratch + thread * ATTEND_SCRATCH_BYTES;
        for (uint32_t i = 0; i < job->n_repeats; i++)
            job->table->attend(&a);
    }
    job->cpu_ns[thread] = cpu_ns() - begin;
}

static void read_rows(void *arg, uint32_t thread, uint32_t n_threads)
{
    struct decode_job *job = arg;
    uint64_t begin = cpu_ns();
    read_share(&job->read, thread, n_threads);
    job->cpu_ns[thread] = cpu_ns() - begin;
}

static uint64_t run_ns(struct pool *pool, pool_fn fn, struct decode_job *job)
{
    pool_run(pool, fn, job);
    uint64_t most = 0;
    for (uint32_t thread = 0; thread < N_THREADS; thread++)
        most = job->cpu_ns[thread] > most ? job->cpu_ns[thread] : most;
    return most;
}

// Medians of GB/s: of decoding, of reading, and of decoding rows in the cache.
static void bench_decode(struct pool *pool, struct decode_job *job, double gbps[3])
{
    struct attend_args *a = &job->args;
    const uint32_t n_keys = a->n_keys, n_cached = (uint32_t)(cached_bytes / a->k_stride_bytes);
    uint64_t ns[3][BENCH_RUNS];
    for (int i = -1; i < BENCH_RUNS; i++) { // the first warms up
        int run = i < 0 ? 0 : i;
        ns[0][run] = run_ns(pool, attend_heads, job);
        ns[1][run] = run_ns(pool, read_rows, job);
        a->n_keys = n_cached;
        a->n_visible = n_cached;
        job->n_repeats = n_keys / n_cached;
        ns[2][run] = run_ns(pool, attend_heads, job);
        a->n_keys = n_keys;
        a->n_visible = n_keys;
        job->n_repeats = 1;
    }
    for (int i = 0; i < 3; i++) {
        qsort(ns[i], BENCH_RUNS, sizeof ns[i][0], compare_ns);
        gbps[i] = 2 * (double)half_bytes / (double)ns[i][BENCH_RUNS / 2];
    }
}

static void bench_shape(struct pool *pool, struct decode_job *job, const char *variant,
                        double peak_gflops)
{
    const struct attend_args *a = &job->args;
    const char *type = a->kv_type == FATHOM_TYPE_F16 ? "f16" : "bf16";
    printf("%-7s %-4s d %-3u group %u tokens %-3u keys %-7u", variant, type, a->d_k, a->group,
           a->n_tokens, a->n_keys);
    if (a->n_tokens == 1) {
        double gbps[3];
        bench_decode(pool, job, gbps);
        printf(" %6.1f GB/s %5.1f %% of reading's %.1f; in the cache %.1f\n", gbps[0],
               100 * gbps[0] / gbps[1], gbps[1], gbps[2]);
        return;
    }
    double ns = bench_ns(pool, attend_heads, job);
    double n_seen = 0;
    for (uint32_t t = 0; t < a->n_tokens; t++)
        n_seen += (double)(a->n_visible + t);
    double gflops = 2.0 * N_HEADS * n_seen * a->group * (a->d_k + a->d_v) / ns;
    printf(" %6.1f GFLOP/s %5.1f %% of multiply-adds\n", gflops, 100 * gflops / peak_gflops);
}

static void bench_variant(struct pool *pool, struct decode_job *job, const char *variant,
                          double peak_gflops)
{
    static const struct {
        uint32_t d, group, n_tokens;
    } shapes[] = {
        {64, 1, 1},  {64, 4, 1},  {64, 8, 1},   {128, 1, 1},
        {128, 4, 1}, {128, 8, 1}, {64, 4, 512}, {128, 4, 512},
    };
    static const int32_t types[] = {FATHOM_TYPE_F16, FATHOM_TYPE_BF16};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (size_t t = 0; t < 2; t++) {
            struct attend_args *a = &job->args;
            a->kv_type = types[t];
            a->d_k = a->d_v = shapes[i].d;
            a->group = shapes[i].group;
            a->n_tokens = shapes[i].n_tokens;
            a->k_stride_bytes = a->v_stride_bytes = 2 * a->d_k;
            a->q_stride = a->o_stride = a->group * a->d_k;
            a->lse_stride = a->group;
            a->n_keys =
                a->n_tokens > 1 ? 4096 : (uint32_t)(half_bytes / N_HEADS / a->k_stride_bytes);
            a->n_visible = a->n_keys + 1 - a->n_tokens;
            a->scale = (float)(1 / sqrt(a->d_k));
            bench_shape(pool, job, variant, peak_gflops);
        }
}

// Small numbers of either sign, valid in both 16-bit types: about 2^-4 .. 2^-2 in f16, and in bf16
// of the size that random bits below the upper exponents give.
static void fill_halves(void *halves, size_t bytes, uint64_t seed)
{
    struct rng rng;
    uint64_t *words = halves;
    rng_init(&rng, seed);
    for (size_t i = 0; i < bytes / 8; i++)
        words[i] = (rng_u64(&rng) & 0x8fff8fff8fff8fff) | 0x3000300030003000;
}

int attend_bench(void)
{
    enum { Q_COUNT = N_HEADS * 512 * 4 * 128 };
    const struct pool_params params = {.n_threads = N_THREADS};
    struct pool *pool = NULL;
    void *kv = NULL;
    float *q = NULL, *o = NULL, *lse = NULL;
    struct kernel_table table;
    struct decode_job job = {.table = &table, .n_repeats = 1};
    if (pool_open(&params, &pool) < 0 ||
        mem_reserve(2 * half_bytes, MEM_PAGES_SMALL, "rows", &kv) < 0 ||
        mem_new(Q_COUNT, sizeof *q, "q", &q) < 0 || mem_new(Q_COUNT, sizeof *o, "o", &o) < 0 ||
        mem_new(Q_COUNT, sizeof *lse, "lse", &lse) < 0 ||
        mem_new(N_THREADS, ATTEND_SCRATCH_BYTES, "scratch", &job.args.scratch) < 0) {
        fprintf(stderr, "k_attend: %s\n", fathom_last_error());
        return 1;
    }
    fill_halves(kv, 2 * half_bytes, 1);
    struct rng rng;
    rng_init(&rng, 2);
    for (size_t i = 0; i < Q_COUNT; i++)
        q[i] = rng_normal(&rng);
    job.args.q = q;
    job.args.o = o;
    job.args.lse = lse;
    job.args.k = kv;
    job.args.v = (char *)kv + half_bytes;
    job.read = (struct read_job){.words = kv, .n = 2 * half_bytes / 8};
    for (int variant = 1; variant < K_VARIANTS; variant++) {
        if ((k_variants[variant].mask & ~ladder_isa()) != 0) continue;
        cpu_kernels_init(&table, k_variants[variant].mask);
        double peak_gflops = bench_peak_gflops(pool, k_variants[variant].mask);
        printf("%s: %d threads, %.1f GFLOP/s of multiply-adds\n", k_variants[variant].name,
               N_THREADS, peak_gflops);
        bench_variant(pool, &job, k_variants[variant].name, peak_gflops);
    }
    mem_free(job.args.scratch);
    mem_free(lse);
    mem_free(o);
    mem_free(q);
    mem_unreserve(kv, 2 * half_bytes);
    pool_close(&pool);
    return 0;
}
