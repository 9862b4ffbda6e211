// Ranks of scores over the heads of a group, and what is above a threshold, against double.

#include "tests/kernels/k_score.h"

#include "tests/check.h"

#include <math.h>

enum { SEED = 23, COUNT_MAX = 200, STRIDE = COUNT_MAX + 3 };
static const double u = 0x1p-24;
static const float canary = 12345.5f;
static const size_t counts[] = {0, 1, 7, 8, 15, 16, 17, 33, 64, COUNT_MAX};
enum { COUNTS = sizeof counts / sizeof counts[0] };

struct ranks {
    float scores[SCORE_GROUP_MAX * STRIDE];
    float radius[COUNT_MAX], weight[COUNT_MAX];
    float reach[SCORE_GROUP_MAX], mass[SCORE_GROUP_MAX];
    float out[COUNT_MAX + 1];
};

// Values of all sizes; with `wild`, some that are not finite.
static void fill_ranks(struct ranks *p, struct rng *rng, bool wild)
{
    for (uint32_t i = 0; i < SCORE_GROUP_MAX * STRIDE; i++) {
        p->scores[i] = rng_normal(rng) * (const float[]){1, 30, 1000}[i % 3];
        if (wild && i % 5 == 0) p->scores[i] = (const float[]){NAN, INFINITY, -INFINITY}[i / 5 % 3];
    }
    for (uint32_t i = 0; i < COUNT_MAX; i++) {
        p->radius[i] = 3 * (float)rng_unit(rng);
        p->weight[i] = (float)rng_below(rng, 3);
    }
    for (uint32_t g = 0; g < SCORE_GROUP_MAX; g++) {
        p->reach[g] = 5 * (float)rng_unit(rng);
        p->mass[g] = 10 * rng_normal(rng);
        if (wild && g == 2) p->mass[g] = NAN;
    }
}

static double reach_of(const struct rank_args *args, uint32_t g, size_t i)
{
    return args->radius != NULL ? (double)args->reach[g] * args->radius[i] : 0;
}

static double value_of(const struct rank_args *args, uint32_t g, size_t i)
{
    return args->scores[g * args->stride + i] + reach_of(args, g, i) - args->mass[g];
}

// A value is rounded three times at most. The logarithm of the sum is off by no more than its
// values and differences are, by group + 16 u for the exponentials and their sum, and by u of the
// result for the last addition.
static void check_item(const struct rank_args *args, const char *name, size_t i)
{
    double max = -INFINITY, sum = 0, error = 0;
    for (uint32_t g = 0; g < args->group; g++) {
        const double value = value_of(args, g, i);
        if (isnan(value)) continue;
        max = fmax(max, value);
        if (isfinite(value))
            error = fmax(error, 3 * u *
                                    (fabs(args->scores[g * args->stride + i]) +
                                     reach_of(args, g, i) + fabs(args->mass[g])));
    }
    for (uint32_t g = 0; g < args->group && isfinite(max); g++) {
        const double value = value_of(args, g, i);
        sum += isnan(value) ? 0 : exp(value - max);
    }
    double want = args->sum && isfinite(max) ? max + log(sum) : max;
    if (args->sum) error = 2 * error + u * (args->group + 16 + 2 * fabs(want));
    if (args->weight != NULL && !(args->weight[i] > 0)) want = -INFINITY;
    if (args->out[i] != want && !(fabs(args->out[i] - want) <= error))
        fail_msg("%s: group %u sum %d, rank [%zu] = %.9g, want %.9g +- %g", name, args->group,
                 args->sum, i, args->out[i], want, error);
}

void test_rank_scores(void **state)
{
    (void)state;
    static const uint32_t groups[] = {1, 2, 4, 7, SCORE_GROUP_MAX};
    static struct ranks p;
    struct kernel_table table;
    struct rng rng;
    const char *name;
    rng_init(&rng, SEED);
    for (uint32_t round = 0; round < SCORE_VARIANTS * 16 * COUNTS; round++) {
        if (!score_variant(round / COUNTS / 16, &table, &name)) continue;
        const uint32_t traits = round / COUNTS % 16;
        const struct rank_args args = {
            .scores = p.scores,
            .stride = STRIDE,
            .radius = traits & 1 ? p.radius : NULL,
            .reach = traits & 1 ? p.reach : NULL,
            .mass = p.mass,
            .weight = traits & 2 ? p.weight : NULL,
            .group = groups[round % 5],
            .sum = (traits & 4) != 0,
            .n = counts[round % COUNTS],
            .out = p.out,
        };
        fill_ranks(&p, &rng, (traits & 8) != 0);
        p.out[args.n] = canary;
        table.kv.rank_scores(&args);
        assert_true(p.out[args.n] == canary);
        for (size_t i = 0; i < args.n; i++)
            check_item(&args, name, i);
    }
}

void test_find_above(void **state)
{
    (void)state;
    static const float least[] = {-INFINITY, -1, 0, 0.5f, 3, INFINITY};
    struct kernel_table table;
    struct rng rng;
    const char *name;
    rng_init(&rng, SEED);
    for (uint32_t round = 0; round < SCORE_VARIANTS * 6 * COUNTS; round++) {
        float x[COUNT_MAX];
        uint32_t at[COUNT_MAX + 1];
        const size_t n = counts[round % COUNTS];
        const float bound = least[round / COUNTS % 6];
        size_t n_above = 0;
        if (!score_variant(round / COUNTS / 6, &table, &name)) continue;
        for (size_t i = 0; i < n; i++) {
            x[i] = i % 7 == 3 ? bound : rng_normal(&rng);
            if (i % 11 == 5) x[i] = (const float[]){NAN, INFINITY, -INFINITY}[i % 3];
        }
        at[n] = UINT32_MAX;
        const size_t n_found = table.kv.find_above(x, n, bound, at);
        for (size_t i = 0; i < n; i++)
            if (x[i] >= bound) {
                assert_true(n_above < n_found);
                assert_int_equal(at[n_above++], i);
            }
        assert_int_equal(n_found, n_above);
        assert_int_equal(at[n], UINT32_MAX);
    }
}
