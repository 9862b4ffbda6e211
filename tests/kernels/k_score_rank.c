// Ranks of scores over the heads of a group, against double, and which lie within bounds.

#include "tests/kernels/k_score.h"

#include "tests/check.h"

#include <float.h>
#include <math.h>

enum { SEED = 23, COUNT_MAX = 200, STRIDE = COUNT_MAX + 3, MANY = 3001 };
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

// Bounds are met exactly by some of the values.
static void fill_found(struct rng *rng, float least, float most, size_t n, float *x, float *weight)
{
    for (size_t i = 0; i < n; i++) {
        x[i] = i % 7 == 3 ? least : i % 7 == 4 ? most : rng_normal(rng);
        if (i % 11 == 5) x[i] = (const float[]){NAN, INFINITY, -INFINITY}[i % 3];
        weight[i] = (float)rng_below(rng, 1u << 17);
    }
}

void test_find_within(void **state)
{
    enum { BOUNDS = 8 };
    static const float bounds[BOUNDS][2] = {
        {-INFINITY, -1}, {-1, INFINITY}, {0, 0.5f},     {0.5f, 0.5f},
        {1, -1},         {3, INFINITY},  {-FLT_MAX, 0}, {INFINITY, INFINITY}};
    static float x[MANY], weight[MANY];
    static uint32_t at[MANY + 1], want_at[MANY + 1];
    (void)state;
    struct kernel_table table, ref;
    struct rng rng;
    const char *name;
    rng_init(&rng, SEED);
    score_variant(0, &ref, &name);
    for (uint32_t round = 0; round < SCORE_VARIANTS * BOUNDS * (COUNTS + 1) * 2; round++) {
        const uint32_t size = round / 2 % (COUNTS + 1);
        const float *bound = bounds[round / 2 / (COUNTS + 1) % BOUNDS];
        const size_t n = size < COUNTS ? counts[size] : MANY;
        if (!score_variant(round / 2 / (COUNTS + 1) / BOUNDS, &table, &name)) continue;
        fill_found(&rng, bound[0], bound[1], n, x, weight);
        struct find_args args = {x, round % 2 != 0 ? weight : NULL, n, bound[0], bound[1], want_at};
        const struct found want = ref.kv.find_within(&args);
        at[n] = UINT32_MAX;
        args.at = at;
        const struct found got = table.kv.find_within(&args);
        assert_int_equal(got.n, want.n);
        assert_int_equal(got.above, want.above);
        assert_memory_equal(at, want_at, want.n * sizeof *at);
        assert_int_equal(at[n], UINT32_MAX);
    }
}
