// How long a search takes, in the shape of Llama-3.2-1B: 8 KV heads, 4 query heads each, d 64.
// Usage: bench_search [THREADS]; processor time of the caller with one thread, else of the clock.
//
// A sequence consists of copies of a few segments, each in memory of its own: a search reads as
// much as it would of a real one.

#include "tests/index/index_rig.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "index/index_layout.h"
#include "src/base/mem.h"
#include "src/base/pool.h"

enum { SEED = 71, HEADS = 8, GROUP = 4, D = 64, ROWS = 8192, RUNS = 15 };
static struct rig rig;

static double now_us(bool of_thread)
{
    struct timespec now;
    clock_gettime(of_thread ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static int compare_us(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void bench(uint32_t n_segments, uint32_t stage2_bits, double share, bool rest,
                  uint32_t n_threads)
{
    struct selector_params params = rig_params(RIG_HEADS, GROUP, D);
    struct rng rng;
    struct selector *selector;
    struct search *search;
    struct index_view *views;
    uint8_t *copies;
    void *memory;
    double us[RUNS];
    rng_init(&rng, SEED);
    params.stage2_bits = stage2_bits;
    params.n_rows_max = (uint64_t)n_segments * ROWS;
    rig_open(&rig, &params, UINT32_MAX, n_threads);
    rig_add(&rig, &rng, RIG_LOOSE, ROWS, false);
    rig.params.n_kv_heads = HEADS;
    check_ok(selector_ops.open(&rig.params, &selector));
    check_ok(selector_ops.search_open(selector, &search));
    rig.params.n_kv_heads = RIG_HEADS;
    const size_t bytes = selector_ops.index_bytes(selector, ROWS);
    const size_t copies_bytes = (size_t)HEADS * n_segments * bytes;
    check_ok(mem_reserve(copies_bytes, MEM_PAGES_HUGE, "copies", &memory)); // as the cache does
    copies = memory;
    check_ok(mem_new((size_t)HEADS * n_segments, sizeof *views, "views", &views));
    for (uint32_t i = 0; i < HEADS * n_segments; i++) {
        memcpy(copies + i * bytes, rig.segments[i % RIG_HEADS][0].index, bytes);
        views[i] =
            (struct index_view){.index = copies + i * bytes, .n_rows = ROWS, .n_visible = ROWS};
    }
    const struct selection *got = rig.picked;
    struct selection picked[HEADS];
    uint64_t budget[HEADS];
    float q[HEADS * GROUP * D];
    for (uint32_t run = 0; run < RUNS; run++) {
        for (uint32_t i = 0; i < HEADS * GROUP * D; i++)
            q[i] = 2 * rng_normal(&rng);
        for (uint32_t h = 0; h < HEADS; h++)
            budget[h] = (uint64_t)(share * (double)n_segments * ROWS);
        const struct search_args args = {
            .q = q, .views = views, .n_segments = n_segments, .skip_rest = !rest};
        const double begin = now_us(n_threads == 1);
        selector_ops.begin(search, &args);
        selector_ops.pick(search, budget, picked);
        us[run] = now_us(n_threads == 1) - begin;
        got = picked;
    }
    qsort(us, RUNS, sizeof us[0], compare_us);
    printf("%7u rows, stage 2 %u, %.1f %%, rest %d: %8.0f us (%.0f to %.0f), %u threads; a head: "
           "%llu keys "
           "scanned, %llu picked in %u runs\n",
           n_segments * ROWS, stage2_bits, 100 * share, rest, us[RUNS / 2], us[0], us[RUNS - 1],
           n_threads, (unsigned long long)got->scanned_keys, (unsigned long long)got->n_rows,
           got->n_runs);
    mem_free(views);
    mem_unreserve(memory, copies_bytes);
    selector_ops.search_close(&search);
    selector_ops.close(&selector);
    rig_close(&rig);
}

int main(int argc, char **argv)
{
    const uint32_t n_threads = argc > 1 ? (uint32_t)atoi(argv[1]) : 1;
    bench(16, 0, 0.02, false, n_threads);
    bench(16, 4, 0.02, false, n_threads);
    bench(128, 0, 0.02, false, n_threads);
    bench(128, 4, 0.02, false, n_threads);
    bench(128, 4, 0.02, true, n_threads);
    bench(128, 4, 0.005, false, n_threads);
    return 0;
}
