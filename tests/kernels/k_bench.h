// What the benches of kernels share: timing, and what the machine can do at best, measured in the
// same run because absolute figures of shared machines drift.

#ifndef FATHOM_TESTS_KERNELS_K_BENCH_H
#define FATHOM_TESTS_KERNELS_K_BENCH_H

#include <stdlib.h>

#include "fathom/device.h"
#include "src/base/clock.h"
#include "src/base/pool.h"

#ifdef __x86_64__
#    include <immintrin.h>
#endif

// The rungs of the ladder that attention and the vector kernels have.
static const struct {
    const char *name;
    uint32_t mask;
} k_variants[] = {
    {"ref", 0},
    {"avx2", FATHOM_ISA_AVX2},
    {"avx512", FATHOM_ISA_AVX2 | FATHOM_ISA_AVX512},
};
enum { K_VARIANTS = 3 };

enum { BENCH_RUNS = 7 };

static int compare_ns(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

// Median nanoseconds of BENCH_RUNS runs on all threads of the pool, after one that warms up.
static inline double bench_ns(struct pool *pool, pool_fn fn, void *arg)
{
    uint64_t ns[BENCH_RUNS];
    pool_run(pool, fn, arg);
    for (int i = 0; i < BENCH_RUNS; i++) {
        uint64_t begin = clock_ns();
        pool_run(pool, fn, arg);
        ns[i] = clock_ns() - begin;
    }
    qsort(ns, BENCH_RUNS, sizeof ns[0], compare_ns);
    return (double)ns[BENCH_RUNS / 2];
}

#ifdef __x86_64__
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
static uint64_t
sum_words(const uint64_t *words, size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += words[i];
    return sum;
}

// Of many words, from a few places by turns: a quarter faster than from one.
#ifdef __x86_64__
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
static uint64_t
sum_places(const uint64_t *words, size_t n)
{
    enum { LINE = 8, PLACES = 8 };
    uint64_t sums[LINE] = {0};
    const size_t n_place = n / PLACES / LINE * LINE, n_whole = n_place * PLACES;
    for (size_t i = 0; i < n_place; i += LINE)
        for (size_t place = 0; place < PLACES; place++)
            for (size_t j = 0; j < LINE; j++)
                sums[j] += words[place * n_place + i + j];
    uint64_t sum = sum_words(words + n_whole, n - n_whole);
    for (size_t j = 0; j < LINE; j++)
        sum += sums[j];
    return sum;
}

struct read_job {
    const uint64_t *words;
    size_t n;
    uint64_t sums[64][8]; // of each thread, a cache line apart
};

static inline void read_share(void *arg, uint32_t thread, uint32_t n_threads)
{
    struct read_job *job = arg;
    size_t begin = job->n * thread / n_threads, end = job->n * (thread + 1) / n_threads;
    job->sums[thread % 64][0] = sum_places(job->words + begin, end - begin);
}

// GB/s of reading the buffer with all threads.
static inline double bench_read_gbps(struct pool *pool, const void *words, size_t bytes)
{
    struct read_job job = {.words = words, .n = bytes / 8};
    return (double)bytes / bench_ns(pool, read_share, &job);
}

#ifdef __x86_64__
enum { PEAK_STEPS = 2000000, PEAK_SUMS = 12 };

__attribute__((target("avx512f"))) static float run_fma_avx512(void)
{
    __m512 sums[PEAK_SUMS], x = _mm512_set1_ps(0.5f);
    for (int i = 0; i < PEAK_SUMS; i++)
        sums[i] = _mm512_set1_ps((float)i);
    for (int step = 0; step < PEAK_STEPS; step++)
#    pragma GCC unroll 12
        for (int i = 0; i < PEAK_SUMS; i++)
            sums[i] = _mm512_fmadd_ps(sums[i], x, x);
    float sum = 0;
    for (int i = 0; i < PEAK_SUMS; i++)
        sum += _mm512_cvtss_f32(sums[i]);
    return sum;
}

__attribute__((target("avx2,fma"))) static float run_fma_avx2(void)
{
    __m256 sums[PEAK_SUMS], x = _mm256_set1_ps(0.5f);
    for (int i = 0; i < PEAK_SUMS; i++)
        sums[i] = _mm256_set1_ps((float)i);
    for (int step = 0; step < PEAK_STEPS; step++)
#    pragma GCC unroll 12
        for (int i = 0; i < PEAK_SUMS; i++)
            sums[i] = _mm256_fmadd_ps(sums[i], x, x);
    float sum = 0;
    for (int i = 0; i < PEAK_SUMS; i++)
        sum += _mm256_cvtss_f32(sums[i]);
    return sum;
}
#endif

struct peak_job {
    uint32_t mask;
    float sums[64];
};

static inline void run_fma(void *arg, uint32_t thread, uint32_t n_threads)
{
    struct peak_job *job = arg;
    (void)n_threads;
#ifdef __x86_64__
    bool wide = (job->mask & FATHOM_ISA_AVX512) != 0;
    job->sums[thread % 64] = wide ? run_fma_avx512() : run_fma_avx2();
#else
    job->sums[thread % 64] = 0;
#endif
}

// GFLOP/s of multiply-adds on f32 in registers with the instructions of the mask, all threads; 0
// where there is no such loop. The machine has the instructions.
static inline double bench_peak_gflops(struct pool *pool, uint32_t mask)
{
#ifdef __x86_64__
    if ((mask & FATHOM_ISA_AVX2) == 0) return 0;
    struct peak_job job = {.mask = mask};
    double lanes = (mask & FATHOM_ISA_AVX512) != 0 ? 16 : 8;
    double flops = 2.0 * PEAK_STEPS * PEAK_SUMS * lanes * pool_count(pool);
    return flops / bench_ns(pool, run_fma, &job);
#else
    (void)pool, (void)mask;
    return 0;
#endif
}

#endif
