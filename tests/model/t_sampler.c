// The sampler: hand-computed survivors and probabilities, and frequencies over many draws.

#include "src/model/sampler.h"

#include "src/base/rng.h"
#include "tests/check.h"

#include <math.h>
#include <string.h>

enum { N_DRAWS = 100000 };

static struct fathom_sampler_params plain_params(void)
{
    struct fathom_sampler_params params;
    fathom_sampler_params_init(&params);
    params.top_k = 0;
    params.temperature = 1.0f;
    params.top_p = 1.0f;
    params.min_p = 0.0f;
    params.seed = 7;
    return params;
}

static int32_t pick(fathom_sampler *sampler, const float *logits)
{
    int32_t id = -1;
    check_ok(fathom_sampler_pick(sampler, logits, &id));
    return id;
}

// Each token must come up within five standard deviations of its probability; never if that is 0.
static void check_frequencies(const struct fathom_sampler_params *params, const float *logits,
                              const double *wanted, uint32_t n)
{
    fathom_sampler *sampler = NULL;
    uint32_t counts[16] = {0};
    check_ok(fathom_sampler_open(params, n, &sampler));
    for (int i = 0; i < N_DRAWS; i++)
        counts[pick(sampler, logits)]++;
    for (uint32_t i = 0; i < n; i++) {
        double mean = wanted[i] * N_DRAWS, deviation = sqrt(mean * (1.0 - wanted[i]));
        if (fabs(counts[i] - mean) > 5.0 * deviation)
            fail_msg("token %u: %u of %d draws, wanted %g", i, counts[i], N_DRAWS, mean);
    }
    fathom_sampler_close(&sampler);
    assert_null(sampler);
}

static void set_logs(float *logits, const double *probabilities, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        logits[i] = (float)log(probabilities[i]) + 3.0f;
}

static const double probabilities[5] = {0.1, 0.4, 0.05, 0.25, 0.2};

static void test_draw(void **state)
{
    float logits[5];
    set_logs(logits, probabilities, 5);
    struct fathom_sampler_params params = plain_params();
    check_frequencies(&params, logits, probabilities, 5);
    // At temperature 0.5 the weights are the squares: .01 .16 .0025 .0625 .04, in all .275.
    params.temperature = 0.5f;
    const double squared[5] = {0.01 / 0.275, 0.16 / 0.275, 0.0025 / 0.275, 0.0625 / 0.275,
                               0.04 / 0.275};
    check_frequencies(&params, logits, squared, 5);
    (void)state;
}

static void test_top_k(void **state)
{
    float logits[5];
    set_logs(logits, probabilities, 5);
    struct fathom_sampler_params params = plain_params();
    params.top_k = 2;
    const double two[5] = {0, 0.4 / 0.65, 0, 0.25 / 0.65, 0};
    check_frequencies(&params, logits, two, 5);
    params.top_k = 9;
    check_frequencies(&params, logits, probabilities, 5);
    // Of equals the first stay.
    const float equal[4] = {1.0f, 2.0f, 1.0f, 1.0f};
    const double wanted[4] = {1.0 / (1.0 + exp(1.0)), exp(1.0) / (1.0 + exp(1.0)), 0, 0};
    params.top_k = 2;
    check_frequencies(&params, equal, wanted, 4);
    (void)state;
}

static void test_top_p(void **state)
{
    float logits[5];
    set_logs(logits, probabilities, 5);
    struct fathom_sampler_params params = plain_params();
    // 0.4 + 0.25 is not yet 0.7, so 0.2 is taken too.
    params.top_p = 0.7f;
    const double three[5] = {0, 0.4 / 0.85, 0, 0.25 / 0.85, 0.2 / 0.85};
    check_frequencies(&params, logits, three, 5);
    params.top_p = 0.9f;
    const double four[5] = {0.1 / 0.95, 0.4 / 0.95, 0, 0.25 / 0.95, 0.2 / 0.95};
    check_frequencies(&params, logits, four, 5);
    params.top_p = 0.0f;
    const double one[5] = {0, 1, 0, 0, 0};
    check_frequencies(&params, logits, one, 5);
    // After top-k the probabilities are those among the survivors: 0.4 of 0.65 is 0.615.
    params.top_k = 2;
    params.top_p = 0.6f;
    check_frequencies(&params, logits, one, 5);
    params.top_k = 0;
    const double two[5] = {0, 0.4 / 0.65, 0, 0.25 / 0.65, 0};
    check_frequencies(&params, logits, two, 5);
    (void)state;
}

static void test_min_p(void **state)
{
    float logits[5];
    set_logs(logits, probabilities, 5);
    struct fathom_sampler_params params = plain_params();
    params.min_p = 0.45f; // of 0.4: 0.18
    const double three[5] = {0, 0.4 / 0.85, 0, 0.25 / 0.85, 0.2 / 0.85};
    check_frequencies(&params, logits, three, 5);
    params.top_p = 0.9f; // which alone would keep 0.1 too
    check_frequencies(&params, logits, three, 5);
    params.top_p = 1.0f;
    params.min_p = 1.0f;
    const double one[5] = {0, 1, 0, 0, 0};
    check_frequencies(&params, logits, one, 5);
    // It looks at probabilities before the temperature: at 2, the roots of the survivors.
    params.min_p = 0.6f;
    params.temperature = 2.0f;
    const double two[5] = {0, 0.4 / 0.65, 0, 0.25 / 0.65, 0};
    double roots[5] = {0};
    for (int i = 0; i < 5; i++)
        roots[i] = sqrt(two[i]) / (sqrt(two[1]) + sqrt(two[3]));
    check_frequencies(&params, logits, roots, 5);
    (void)state;
}

static void test_repeat_penalty(void **state)
{
    const float logits[4] = {2.0f, 1.5f, -1.0f, -1.5f};
    struct fathom_sampler_params params = plain_params();
    fathom_sampler *sampler = NULL;
    params.temperature = 0.0f;
    params.repeat_penalty = 2.0f;
    params.n_repeat = 2;
    check_ok(fathom_sampler_open(&params, 4, &sampler));
    assert_int_equal(pick(sampler, logits), 0);
    fathom_sampler_accept(sampler, 0);
    assert_int_equal(pick(sampler, logits), 1); // 2 is 1 now
    fathom_sampler_accept(sampler, 0);
    assert_int_equal(pick(sampler, logits), 1); // once is enough
    fathom_sampler_accept(sampler, 1);
    assert_int_equal(pick(sampler, logits), 0); // 1 against 0.75
    fathom_sampler_accept(sampler, 1);
    assert_int_equal(pick(sampler, logits), 0); // 0 has left the two newest
    fathom_sampler_accept(sampler, -1);
    fathom_sampler_accept(sampler, 4);
    const float negative[4] = {-9.0f, -9.0f, -1.0f, -1.5f};
    fathom_sampler_accept(sampler, 2);
    assert_int_equal(pick(sampler, negative), 3); // -1 is -2 now
    fathom_sampler_close(&sampler);
    (void)state;
}

static void test_greedy(void **state)
{
    const float equal[4] = {NAN, 1.0f, 1.0f, -INFINITY};
    const float hopeless[3] = {NAN, INFINITY, -INFINITY};
    struct fathom_sampler_params params = plain_params();
    fathom_sampler *sampler = NULL;
    int32_t id = 77;
    params.temperature = -1.0f;
    check_ok(fathom_sampler_open(&params, 4, &sampler));
    assert_int_equal(pick(sampler, equal), 1);
    fathom_sampler_close(&sampler);
    check_ok(fathom_sampler_open(&params, 3, &sampler));
    assert_int_equal(fathom_sampler_pick(sampler, hopeless, &id), FATHOM_EINVAL);
    assert_int_equal(id, 77);
    fathom_sampler_close(&sampler);
    (void)state;
}

static void test_not_finite(void **state)
{
    const float logits[5] = {NAN, 0.0f, -INFINITY, INFINITY, 0.0f};
    const double wanted[5] = {0, 0.5, 0, 0, 0.5};
    struct fathom_sampler_params params = plain_params();
    check_frequencies(&params, logits, wanted, 5);
    params.top_k = 3;
    params.top_p = 0.9f;
    params.min_p = 0.1f;
    check_frequencies(&params, logits, wanted, 5);
    // Extremes neither overflow nor lose the best.
    const float wide[3] = {-3.0e38f, 3.0e38f, 0.0f};
    const double best[3] = {0, 1, 0};
    params.temperature = 1.0e-30f;
    check_frequencies(&params, wide, best, 3);
    (void)state;
}

// A big vocabulary, against sorting everything.
static int compare_down(const void *a, const void *b)
{
    float left = *(const float *)a, right = *(const float *)b;
    return left > right ? -1 : left < right;
}

static void test_big_vocabulary(void **state)
{
    enum { N = 150000 };
    static float logits[N], sorted[N];
    struct rng rng;
    struct fathom_sampler_params params = plain_params();
    fathom_sampler *sampler = NULL;
    rng_init(&rng, 3);
    for (int i = 0; i < N; i++)
        logits[i] = 4.0f * rng_normal(&rng);
    memcpy(sorted, logits, sizeof logits);
    qsort(sorted, N, sizeof sorted[0], compare_down);
    double sum = 0.0, covered = 0.0;
    uint32_t n_kept = 0;
    for (int i = 0; i < N; i++)
        sum += exp((double)sorted[i]);
    while (covered < 0.5 * sum)
        covered += exp((double)sorted[n_kept++]);
    params.top_p = 0.5f;
    check_ok(fathom_sampler_open(&params, N, &sampler));
    for (int i = 0; i < 200; i++)
        assert_true(logits[pick(sampler, logits)] >= sorted[n_kept - 1]);
    fathom_sampler_close(&sampler);
    (void)state;
}

// The n best of the logits, as a device gives them.
static int compare_logits(const void *a, const void *b)
{
    const struct logit *left = a, *right = b;
    if (left->value != right->value) return left->value > right->value ? -1 : 1;
    return left->id < right->id ? -1 : 1;
}

static void find_best(const float *logits, uint32_t n_vocab, struct logit *best, uint32_t n)
{
    static struct logit sorted[1000];
    uint32_t n_finite = 0;
    for (uint32_t i = 0; i < n_vocab; i++)
        if (isfinite(logits[i])) sorted[n_finite++] = (struct logit){logits[i], (int32_t)i};
    qsort(sorted, n_finite, sizeof sorted[0], compare_logits);
    for (uint32_t i = 0; i < n; i++)
        best[i] = i < n_finite ? sorted[i] : (struct logit){-INFINITY, -1};
}

// Two samplers alike, one of which sees the best alone: they pick the same, token after token.
static void check_same_picks(const struct fathom_sampler_params *params, bool bans)
{
    enum { N = 1000, STEPS = 200 };
    static float logits[N];
    static struct logit best[N];
    struct rng rng;
    fathom_sampler *all = NULL, *few = NULL;
    int32_t want = 0, got = 0;
    rng_init(&rng, 5);
    check_ok(fathom_sampler_open(params, N, &all));
    check_ok(fathom_sampler_open(params, N, &few));
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < N; i++) // of few values, so that many are equal
            logits[i] = rng_below(&rng, 20) == 0 ? NAN : 0.5f * roundf(4.0f * rng_normal(&rng));
        if (bans) fathom_sampler_ban(all, want), fathom_sampler_ban(few, got);
        const uint32_t n = sampler_n_best(few);
        assert_true(n > 0 && n <= N);
        find_best(logits, N, best, n);
        want = pick(all, logits);
        check_ok(sampler_pick_best(few, best, n, &got));
        if (got != want) fail_msg("step %d: %d, not %d", step, (int)got, (int)want);
        fathom_sampler_accept(all, want);
        fathom_sampler_accept(few, got);
    }
    fathom_sampler_close(&all);
    fathom_sampler_close(&few);
}

static void test_best_alone(void **state)
{
    (void)state;
    static const float penalties[] = {1.0f, 1.2f, 3.0f};
    for (int kind = 0; kind < 24; kind++) {
        struct fathom_sampler_params params = plain_params();
        params.temperature = kind % 4 == 0 ? 0.0f : 1.5f;
        params.top_k = kind % 4 == 3 ? 2000 : 20;
        params.top_p = kind % 4 == 1 ? 0.8f : 1.0f;
        params.min_p = kind % 4 == 2 ? 0.2f : 0.0f;
        params.repeat_penalty = penalties[kind / 4 % 3];
        check_same_picks(&params, kind >= 12);
    }
    // Where a token may rise that is not among the best, or all play a part.
    fathom_sampler *sampler = NULL;
    struct fathom_sampler_params params = plain_params();
    check_ok(fathom_sampler_open(&params, 9, &sampler));
    assert_int_equal(sampler_n_best(sampler), 0);
    fathom_sampler_close(&sampler);
    params.top_k = 3;
    params.repeat_penalty = 0.9f;
    check_ok(fathom_sampler_open(&params, 9, &sampler));
    assert_int_equal(sampler_n_best(sampler), 0);
    fathom_sampler_close(&sampler);
}

static void test_bans(void **state)
{
    (void)state;
    const float logits[3] = {1.0f, 3.0f, 2.0f};
    struct fathom_sampler_params params = plain_params();
    fathom_sampler *sampler = NULL;
    int32_t id;
    params.temperature = 0.0f;
    check_ok(fathom_sampler_open(&params, 3, &sampler));
    assert_int_equal(pick(sampler, logits), 1);
    fathom_sampler_ban(sampler, 1);
    fathom_sampler_ban(sampler, 1);
    fathom_sampler_ban(sampler, -1);
    fathom_sampler_ban(sampler, 3);
    assert_int_equal(sampler_n_best(sampler), 2);
    assert_int_equal(pick(sampler, logits), 2);
    fathom_sampler_ban(sampler, 2);
    fathom_sampler_ban(sampler, 0);
    assert_int_equal(fathom_sampler_pick(sampler, logits, &id), FATHOM_EINVAL);
    fathom_sampler_close(&sampler);
}

static void test_seeds(void **state)
{
    float logits[5];
    set_logs(logits, probabilities, 5);
    struct fathom_sampler_params params = plain_params();
    fathom_sampler *first = NULL, *second = NULL, *third = NULL;
    check_ok(fathom_sampler_open(&params, 5, &first));
    check_ok(fathom_sampler_open(&params, 5, &second));
    params.seed = 8;
    check_ok(fathom_sampler_open(&params, 5, &third));
    int n_different = 0;
    for (int i = 0; i < 200; i++) {
        int32_t id = pick(first, logits);
        assert_int_equal(id, pick(second, logits));
        n_different += id != pick(third, logits);
    }
    assert_true(n_different > 50);
    fathom_sampler_close(&first);
    fathom_sampler_close(&second);
    fathom_sampler_close(&third);
    (void)state;
}

static void test_bad_params(void **state)
{
    fathom_sampler *sampler = NULL;
    struct fathom_sampler_params good = plain_params(), params = good;
    assert_int_equal(fathom_sampler_open(NULL, 5, &sampler), FATHOM_EINVAL);
    assert_int_equal(fathom_sampler_open(&params, 0, &sampler), FATHOM_EINVAL);
    params.struct_bytes = 3;
    assert_int_equal(fathom_sampler_open(&params, 5, &sampler), FATHOM_EINVAL);
    params = good;
    params.top_p = 1.5f;
    assert_int_equal(fathom_sampler_open(&params, 5, &sampler), FATHOM_EINVAL);
    params = good;
    params.min_p = NAN;
    assert_int_equal(fathom_sampler_open(&params, 5, &sampler), FATHOM_EINVAL);
    params = good;
    params.repeat_penalty = 0.0f;
    assert_int_equal(fathom_sampler_open(&params, 5, &sampler), FATHOM_EINVAL);
    params = good;
    params.temperature = NAN;
    assert_int_equal(fathom_sampler_open(&params, 5, &sampler), FATHOM_EINVAL);
    assert_null(sampler);
    params = good;
    params.n_repeat = 0;
    check_ok(fathom_sampler_open(&params, 5, &sampler));
    fathom_sampler_accept(sampler, 1);
    fathom_sampler_close(&sampler);
    fathom_sampler_close(&sampler);
    fathom_sampler_close(NULL);
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draw),           cmocka_unit_test(test_top_k),
        cmocka_unit_test(test_top_p),          cmocka_unit_test(test_min_p),
        cmocka_unit_test(test_repeat_penalty), cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_not_finite),     cmocka_unit_test(test_big_vocabulary),
        cmocka_unit_test(test_best_alone),     cmocka_unit_test(test_bans),
        cmocka_unit_test(test_seeds),          cmocka_unit_test(test_bad_params),
    };
    print_message("seeds 3, 7, 8\n");
    return check_run("sampler", tests, sizeof tests / sizeof tests[0]);
}
