// The largest logits on the device, against sorting all of them: to the bit.

#include "tests/gpu/gpu_rig.h"

#include <math.h>

#include "gpu/gpu_grid.h"
#include "gpu/logits_cuda.h"
#include "src/base/rng.h"

enum { SEED = 37, LOGITS_MAX = 20 * GPU_SLAB };

static int compare(const void *a, const void *b)
{
    const struct logit *first = a, *second = b;
    if (first->value != second->value) return first->value > second->value ? -1 : 1;
    return first->id < second->id ? -1 : 1;
}

// The finite ones, the best first; returns how many.
static uint32_t sort_logits(const float *logits, uint32_t n, struct logit *sorted)
{
    uint32_t n_finite = 0;
    for (uint32_t i = 0; i < n; i++)
        if (isfinite(logits[i])) sorted[n_finite++] = (struct logit){logits[i], (int32_t)i};
    qsort(sorted, n_finite, sizeof *sorted, compare);
    return n_finite;
}

static void check_best(const char *kind, const float *logits, uint32_t n_logits, uint32_t n_best)
{
    static struct logit sorted[LOGITS_MAX];
    struct logit got[LOGITS_BEST_MAX];
    const uint32_t n_finite = sort_logits(logits, n_logits, sorted);
    float *dev_logits = gpu_put(logits, n_logits * sizeof *logits);
    struct logit *dev_best = gpu_new(n_best * sizeof *dev_best);
    void *scratch = gpu_new(logits_scratch_bytes(n_logits, n_best));
    gpu_ok(logits_best_cuda(dev_logits, n_logits, dev_best, n_best, scratch, NULL));
    gpu_take(got, dev_best, n_best * sizeof *got);
    gpu_ok(cudaFree(dev_logits));
    gpu_ok(cudaFree(scratch));
    for (uint32_t i = 0; i < n_best; i++) {
        const int32_t id = i < n_finite ? sorted[i].id : -1;
        if (got[i].id != id || (id >= 0 && got[i].value != sorted[i].value))
            fail_msg("%s, best %u of %u, number %u: %d (%.9g), not %d", kind, n_best, n_logits, i,
                     (int)got[i].id, (double)got[i].value, (int)id);
    }
}

// One slab and several, whole and cut; more rounds than two where many are kept.
static void run_best(void)
{
    static const uint32_t counts[] = {
        1, 2, 31, 257, GPU_SLAB - 1, GPU_SLAB, GPU_SLAB + 1, 5 * GPU_SLAB + 3, LOGITS_MAX};
    static const uint32_t bests[] = {1, 2, 40, LOGITS_BEST_MAX};
    static const float wild[] = {NAN, INFINITY, -INFINITY};
    static float x[LOGITS_MAX];
    struct rng rng;
    rng_init(&rng, SEED);
    for (size_t j = 0; j < sizeof counts / sizeof counts[0]; j++) {
        const uint32_t n = counts[j], n_best = bests[j % 4];
        for (uint32_t i = 0; i < n; i++)
            x[i] = rng_normal(&rng);
        for (size_t b = 0; b < (n <= GPU_SLAB + 1 ? 4 : 1); b++)
            check_best("ordinary", x, n, bests[(j + b) % 4]);
        for (uint32_t i = 0; i < n; i++)
            x[i] = (float)rng_below(&rng, 3) - 1;
        check_best("equals", x, n, n_best);
        for (uint32_t i = 0; i < n; i++)
            x[i] = rng_below(&rng, 2) == 0 ? 0.0f : -0.0f;
        check_best("zeros", x, n, n_best);
    }
    for (uint32_t i = 0; i < LOGITS_MAX; i++)
        x[i] = rng_below(&rng, 3) == 0 ? wild[rng_below(&rng, 3)] : -1 - fabsf(rng_normal(&rng));
    check_best("wild", x, 3 * GPU_SLAB, LOGITS_BEST_MAX);
    for (uint32_t i = 0; i < 3 * GPU_SLAB; i++)
        if (i % 100 != 7) x[i] = wild[rng_below(&rng, 3)];
    check_best("few finite", x, 3 * GPU_SLAB, LOGITS_BEST_MAX);
    for (uint32_t i = 0; i < 3 * GPU_SLAB; i++)
        x[i] = wild[rng_below(&rng, 3)];
    check_best("none finite", x, 3 * GPU_SLAB, 2);
}

static void run_refused(void)
{
    float *dev = gpu_new(sizeof *dev);
    struct logit best;
    assert_int_equal(logits_best_cuda(dev, 0, &best, 1, dev, NULL), cudaErrorInvalidValue);
    assert_int_equal(logits_best_cuda(dev, 1, &best, 0, dev, NULL), cudaErrorInvalidValue);
    assert_int_equal(logits_best_cuda(dev, 1, &best, LOGITS_BEST_MAX + 1, dev, NULL),
                     cudaErrorInvalidValue);
    gpu_ok(cudaFree(dev));
}

GPU_TEST(best)
GPU_TEST(refused)

int main(void)
{
    printf("seed %d\n", SEED);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_best),
        cmocka_unit_test(test_refused),
    };
    return gpu_run("k_logits_cuda", tests, sizeof tests / sizeof tests[0]);
}
