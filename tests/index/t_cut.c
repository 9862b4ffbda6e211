// Selection by histograms against sorting.

#include "tests/check.h"

#include <float.h>
#include <math.h>

#include "cpu/cpu_kernels.h"
#include "index/cut.h"
#include "src/base/rng.h"

enum { SEED = 81, COUNT_MAX = 20000 };
static struct kernel_table kernels;

// Kinds of values: spread, many equal, all equal, of all magnitudes, with what is never taken.
static float make_value(struct rng *rng, int kind)
{
    switch (kind) {
    case 0:
        return rng_normal(rng);
    case 1:
        return (float)rng_below(rng, 5);
    case 2:
        return -7;
    case 3:
        return rng_normal(rng) * exp2f((float)rng_below(rng, 250) - 140);
    case 4:
        return rng_below(rng, 4) == 0 ? (rng_below(rng, 2) ? FLT_MAX : -FLT_MAX) : rng_normal(rng);
    case 5:
        return rng_below(rng, 3) == 0 ? INFINITY : 1e-42f * (float)rng_below(rng, 9);
    default:
        return rng_below(rng, 2) == 0 ? (rng_below(rng, 4) ? -INFINITY : NAN) : rng_normal(rng);
    }
}

// What is taken holds the wanted weight, would not without its least item, and nothing that was
// left is greater than that one.
static void check_cut(const float *x, const float *weight, size_t n, uint64_t want)
{
    static uint32_t room[COUNT_MAX];
    struct cut cut = cut_find(&kernels.kv, x, weight, n, want, room);
    uint64_t total = 0, taken = 0, above_least = 0;
    float least = INFINITY, most_left = -INFINITY;
    static uint8_t takes[COUNT_MAX];
    for (size_t i = 0; i < n; i++) {
        const uint64_t w = weight != NULL ? (uint64_t)weight[i] : 1;
        takes[i] = cut_takes(&cut, x[i], (float)w);
        if (x[i] > -INFINITY) total += w;
        if (takes[i]) {
            assert_true(x[i] > -INFINITY);
            taken += w;
            least = fminf(least, x[i]);
        } else if (x[i] > most_left) {
            most_left = x[i];
        }
    }
    uint64_t last = 0;
    for (size_t i = 0; i < n; i++) {
        const uint64_t w = weight != NULL ? (uint64_t)weight[i] : 1;
        if (takes[i] && x[i] > least) above_least += w;
        if (takes[i] && x[i] == least) last = w;
    }
    assert_true(taken >= (want < total ? want : total));
    if (taken > 0 && want < total) {
        assert_true(most_left <= least);
        assert_true(above_least < want && taken - last < want);
    }
    if (want == 0) assert_int_equal(taken, 0);
}

static void test_cut(void **state)
{
    static float x[COUNT_MAX], weight[COUNT_MAX];
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
    cpu_kernels_init(&kernels, UINT32_MAX);
    for (int round = 0; round < 700; round++) {
        const size_t n = rng_below(&rng, round % 2 ? 40 : COUNT_MAX);
        uint64_t total = 0;
        for (size_t i = 0; i < n; i++) {
            x[i] = make_value(&rng, round % 7);
            weight[i] = (float)(1 + rng_below(&rng, 64));
            total += (uint64_t)weight[i];
        }
        check_cut(x, weight, n, 0);
        check_cut(x, weight, n, 1);
        check_cut(x, weight, n, rng_below(&rng, (uint32_t)total + 1));
        check_cut(x, weight, n, UINT64_MAX);
        check_cut(x, NULL, n, rng_below(&rng, (uint32_t)n + 1));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cut)};
    return check_run("t_cut", tests, 1);
}
