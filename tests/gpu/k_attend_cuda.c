// Dense attention on the device against sums in double (k_attend_cuda_problem.c), over lists of
// shapes that reach all kernels; with --bench, its speed on a device (k_attend_cuda_bench.c).

#include "tests/gpu/k_attend_cuda.h"

#include "tests/gpu/gpu_rig.h"

#include <math.h>

#include "fathom/fathom.h"
#include "gpu/attend_cuda.h"
#include "tests/gpu/gpu_bench.h"

enum { SEED = 31 };

static const uint32_t dims[] = {1, 7, 8, 16, 32, 40, 64, 80, 96, 128, 192, 256};
static const uint32_t groups[] = {1, 2, 3, 4, 5, 7, 8, 16};
static const uint32_t tokens[] = {1, 2, 7, 16, 33};
static const uint32_t keys[] = {0, 1, 15, 16, 17, 63, 64, 65, 127, 300, 700};
static const int32_t types[] = {FATHOM_TYPE_F16, FATHOM_TYPE_BF16, FATHOM_TYPE_F32};
#define COUNT(a)     ((uint32_t)(sizeof(a) / sizeof(a)[0]))
#define PICK(rng, a) (a)[rng_below(rng, COUNT(a))]

// The kernels may have what they want on this device, too.
static void open_kernels(void)
{
    gpu_ok(attend_open_cuda());
}

static void check_problem(struct dense_problem *p, bool with_lse)
{
    dense_solve(p);
    dense_run(p, with_lse);
    dense_compare(p, with_lse);
}

// A plain case; the caller changes it before or after opening.
static struct dense_problem plain_case(int32_t type, uint32_t d, uint32_t group, uint32_t n_tokens,
                                       uint32_t n_keys)
{
    return (struct dense_problem){
        .args = {.kv_type = type,
                 .d_k = d,
                 .d_v = d,
                 .n_heads = group,
                 .n_kv_heads = 1,
                 .n_tokens = n_tokens,
                 .n_keys = n_keys,
                 .scale = (float)(1 / sqrt(d))},
        .n_sms = 1,
    };
}

static void draw_case(struct rng *rng, struct dense_problem *p)
{
    *p = plain_case(PICK(rng, types), PICK(rng, dims), PICK(rng, groups), PICK(rng, tokens),
                    PICK(rng, keys));
    struct dense_attend_args *a = &p->args;
    if (rng_below(rng, 3) == 0) a->d_v = PICK(rng, dims);
    a->n_kv_heads = 1 + rng_below(rng, 3);
    a->pairing = (int32_t)rng_below(rng, 3);
    a->n_rot = a->d_k / 4 * 2 * rng_below(rng, 3);
    if (rng_below(rng, 2)) a->n_window = 1 + rng_below(rng, 200);
    p->n_sms = rng_below(rng, 2) ? 1 : 16;
    while (1.0 * a->n_tokens * a->n_heads * a->n_kv_heads * a->n_keys * a->d_k > 6e5)
        a->n_keys /= 2;
    a->n_heads *= a->n_kv_heads;
}

// A number of keys that is not theirs, and of equal reach.
static uint32_t other_keys(struct rng *rng, const struct dense_attend_args *args)
{
    struct dense_attend_args other = *args;
    do
        other.n_keys = 1 + rng_below(rng, 2 * args->n_keys + 64);
    while (attend_reach_cuda(&other) != attend_reach_cuda(args));
    return other.n_keys;
}

static void run_random_shapes(void)
{
    struct rng rng;
    open_kernels();
    rng_init(&rng, SEED);
    for (int n = 0; n < 40; n++) {
        struct dense_problem p;
        draw_case(&rng, &p);
        if (n % 2 == 0) p.said_keys = other_keys(&rng, &p.args);
        dense_open(&p, &rng, n % 3 == 0, 1);
        check_problem(&p, n % 5 != 0);
        dense_close(&p);
    }
}

// Each size of a head in decoding and prefill, with a window and without; parts of the keys.
static void run_each_size(void)
{
    struct rng rng;
    open_kernels();
    rng_init(&rng, SEED + 1);
    for (uint32_t i = 0; i < COUNT(dims); i++)
        for (uint32_t type = 0; type < 2; type++) {
            struct dense_problem p =
                plain_case(types[type], dims[i], groups[i % 5], 1 + i % 3, 200 + 7 * i);
            p.args.n_rot = dims[i] / 2 * 2;
            p.args.pairing = FATHOM_ROPE_ADJACENT + (int32_t)(i % 2);
            p.n_sms = 1 + i % 4;
            dense_open(&p, &rng, false, 1);
            check_problem(&p, true);
            dense_close(&p);

            p = plain_case(types[type], dims[i], 1 + i % 4, 70 / (1 + i % 4), 75 + 9 * i);
            p.args.n_window = i % 2 == type ? 40 + i : 0;
            p.n_sms = 1 + i % 4 * 8;
            dense_open(&p, &rng, false, 1);
            check_problem(&p, true);
            dense_close(&p);
        }
}

// Many parts, a long prefix, no more tokens than a part has keys.
static void run_parts(void)
{
    struct rng rng;
    open_kernels();
    rng_init(&rng, SEED + 2);
    for (int n = 0; n < 3; n++) {
        struct dense_problem p = plain_case(types[n], 32, 4, n == 0 ? 40 : 2, 1500);
        p.n_sms = 16;
        p.said_keys = n == 1 ? 1100 : 0;
        dense_open(&p, &rng, false, 1);
        assert_true(attend_dense_cuda_bytes(&p.args, p.n_sms) > 0);
        check_problem(&p, true);
        dense_close(&p);
    }
}

// A long cache: parts of thousands of keys.
static void run_many_keys(void)
{
    struct rng rng;
    open_kernels();
    rng_init(&rng, SEED + 7);
    for (int n = 0; n < 3; n++) {
        struct dense_problem p = plain_case(types[n], 64, 2, 1, 20011);
        p.n_sms = 1 + 2 * (uint32_t)n;
        dense_open(&p, &rng, false, 1);
        check_problem(&p, true);
        dense_close(&p);
    }
}

// The kinds that the tests of single traits go through: decoding, prefill, and the plain kernel in
// either.
struct kind {
    int32_t type;
    uint32_t n_tokens;
    bool gaps;
};
static const struct kind kinds[] = {{FATHOM_TYPE_F16, 5, false},
                                    {FATHOM_TYPE_BF16, 5, false},
                                    {FATHOM_TYPE_F16, 25, false},
                                    {FATHOM_TYPE_BF16, 25, false},
                                    {FATHOM_TYPE_F16, 5, true}};

// Scores that rise or fall from key to key, slowly and steeply: what was gathered is rescaled
// often, and nothing may overflow before it is. Of whole numbers, exact in f16.
static void run_steady_scores(void)
{
    struct rng rng;
    open_kernels();
    rng_init(&rng, SEED + 3);
    for (uint32_t n = 0; n < 2 * COUNT(kinds); n++) {
        const struct kind *kind = &kinds[n / 2];
        struct dense_problem p = plain_case(kind->type, 16, 2, kind->n_tokens, 250);
        dense_open(&p, &rng, kind->gaps, 0);
        p.args.scale = (const float[]){0x1p-5f, 1, 1.375f, 16}[n % 4];
        for (uint32_t row = 0; row < p.args.n_tokens * p.args.n_heads; row++)
            p.q[row * p.args.d_k] = n % 3 ? 1 : -1;
        for (uint32_t j = 0; j < p.args.n_keys; j++)
            dense_put_k(&p, 0, j, 0, (float)j);
        check_problem(&p, true);
        dense_close(&p);
    }
}

// Scores far beyond the range of exp, and queries beyond that of f16: only the greatest counts, and
// the result is its value.
static void run_huge_scores(void)
{
    struct rng rng;
    open_kernels();
    rng_init(&rng, SEED + 4);
    for (uint32_t n = 0; n < COUNT(kinds); n++) {
        struct dense_problem p = plain_case(kinds[n].type, 40, 3, kinds[n].n_tokens, 120);
        dense_open(&p, &rng, kinds[n].gaps, 0);
        p.args.scale = 1;
        for (uint32_t row = 0; row < p.args.n_tokens * 3; row++)
            p.q[row * 40] = row % 3 == 1 ? -0x1p100f : 0x1p100f;
        for (uint32_t j = 0; j < 120; j++)
            dense_put_k(&p, 0, j, 0, (float)j - 60);
        dense_run(&p, true);
        for (uint32_t row = 0; row < p.args.n_tokens * 3; row++) {
            const uint32_t best = row % 3 == 1 ? 0 : 120 - p.args.n_tokens + row / 3;
            const double score = fabs((double)best - 60) * 0x1p100;
            assert_true(fabs(p.lse[row] - score) <= 8 * 0x1p-24 * score);
            for (uint32_t i = 0; i < 40; i++)
                assert_true(p.o[row * 40 + i] == (float)p.v_wide[best * 40 + i]);
        }
        dense_close(&p);
    }
}

// A NaN in a key or value reaches all tokens that see it, and no other.
static void run_nan(void)
{
    struct rng rng;
    open_kernels();
    rng_init(&rng, SEED + 5);
    for (uint32_t n = 0; n < 2 * COUNT(kinds); n++) {
        const bool in_key = n % 2;
        const struct kind *kind = &kinds[n / 2];
        struct dense_problem p = plain_case(kind->type, 80, 3, kind->n_tokens, 150);
        p.args.n_window = 20;
        dense_open(&p, &rng, kind->gaps, 1);
        dense_solve(&p);
        const uint32_t first = 3, bad = 150 - p.args.n_tokens + first;
        if (in_key) dense_put_k(&p, 0, bad, 79, NAN);
        if (!in_key) dense_put_v(&p, 0, bad, 79, NAN);
        dense_run(&p, true);
        for (uint32_t row = 0; row < p.args.n_tokens * 3; row++) {
            const uint32_t token = row / 3;
            const bool is_hit = token >= first && token < first + 20;
            assert_int_equal(isnan(p.o[row * 80 + 79]), is_hit);
            assert_int_equal(isnan(p.lse[row]), is_hit && in_key);
            assert_int_equal(isnan(p.o[row * 80]), is_hit && in_key);
            // What is rightly NaN passes the comparison with what it was without.
            if (is_hit && in_key) p.lse[row] = (float)p.lse_true[row];
            for (uint32_t i = in_key ? 0 : 79; i < 80 && is_hit; i++)
                p.o[row * 80 + i] = (float)p.o_true[row * 80 + i];
        }
        dense_compare(&p, true);
        dense_close(&p);
    }
}

// Scores of -infinity weigh nothing; nothing but them is an empty set; +infinity is NaN.
static void run_infinity(void)
{
    struct rng rng;
    open_kernels();
    rng_init(&rng, SEED + 6);
    for (uint32_t n = 0; n < COUNT(kinds); n++) {
        struct dense_problem p = plain_case(kinds[n].type, 16, 3, kinds[n].n_tokens, 100);
        dense_open(&p, &rng, kinds[n].gaps, 1);
        const uint32_t n_rows = p.args.n_tokens * 3;
        for (uint32_t row = 0; row < n_rows; row++)
            p.q[row * 16] = 1;
        for (uint32_t j = 0; j < 100; j++)
            dense_put_k(&p, 0, j, 0, -INFINITY);
        dense_run(&p, true);
        for (uint32_t row = 0; row < n_rows; row++) {
            assert_true(p.lse[row] == -INFINITY);
            for (uint32_t i = 0; i < 16; i++)
                assert_true(p.o[row * 16 + i] == 0);
        }
        dense_put_k(&p, 0, 40, 0, 0); // the only one that counts
        dense_run(&p, true);
        for (uint32_t row = 0; row < n_rows; row++)
            for (uint32_t i = 0; i < 16; i++)
                assert_true(fabs(p.o[row * 16 + i] - p.v_wide[40 * 16 + i]) <= 0x1p-7);
        dense_put_k(&p, 0, 40, 0, INFINITY);
        dense_run(&p, true);
        for (uint32_t row = 0; row < n_rows; row++)
            assert_true(isnan(p.lse[row]) && isnan(p.o[row * 16]) && isnan(p.o[row * 16 + 15]));
        dense_close(&p);
    }
}

GPU_TEST(random_shapes)
GPU_TEST(each_size)
GPU_TEST(parts)
GPU_TEST(many_keys)
GPU_TEST(steady_scores)
GPU_TEST(huge_scores)
GPU_TEST(nan)
GPU_TEST(infinity)

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return gpu_bench(argc > 2 ? argv[2] : NULL);
    printf("seed %d\n", SEED);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_shapes), cmocka_unit_test(test_each_size),
        cmocka_unit_test(test_parts),         cmocka_unit_test(test_many_keys),
        cmocka_unit_test(test_steady_scores), cmocka_unit_test(test_huge_scores),
        cmocka_unit_test(test_nan),           cmocka_unit_test(test_infinity),
    };
    return gpu_run("k_attend_cuda", tests, COUNT(tests));
}
