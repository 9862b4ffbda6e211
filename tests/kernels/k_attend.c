// Attention and merge against sums in double (k_attend_problem.c) for each rung of the ladder; with
// --bench, their speed (k_attend_bench.c).

#include "tests/kernels/k_attend.h"

#include "tests/check.h"

#include <math.h>
#include <string.h>

#include "cpu/cpu_kernels.h"
#include "cpu/ladder.h"
#include "src/base/mem.h"
#include "tests/kernels/k_bench.h"

enum { SEED = 7 };

static const uint32_t dims[] = {1, 7, 8, 16, 32, 40, 64, 80, 96, 128, 192, 256};
static const uint32_t groups[] = {1, 2, 3, 4, 5, 7, 8, 16};
static const uint32_t tokens[] = {1, 2, 7, 16, 33};
static const uint32_t keys[] = {0, 1, 15, 16, 17, 63, 64, 65, 127, 300, 1000};
#define COUNT(a)     ((uint32_t)(sizeof(a) / sizeof(a)[0]))
#define PICK(rng, a) (a)[rng_below(rng, COUNT(a))]

static bool variant_init(int variant, struct kernel_table *table)
{
    if ((k_variants[variant].mask & ~ladder_isa()) != 0) return false;
    cpu_kernels_init(table, k_variants[variant].mask);
    return true;
}

static void check_problem(struct problem *p)
{
    struct kernel_table table;
    problem_solve(p);
    for (int variant = 0; variant < K_VARIANTS; variant++) {
        if (!variant_init(variant, &table)) continue;
        problem_run(p, &table);
        problem_compare(p, k_variants[variant].name, 1);
    }
}

static void draw_case(struct rng *rng, struct attend_args *a)
{
    static const int32_t types[] = {FATHOM_TYPE_F32, FATHOM_TYPE_F16, FATHOM_TYPE_BF16};
    memset(a, 0, sizeof *a);
    a->kv_type = PICK(rng, types);
    a->d_k = PICK(rng, dims);
    a->d_v = rng_below(rng, 2) ? a->d_k : PICK(rng, dims);
    a->group = PICK(rng, groups);
    a->n_tokens = PICK(rng, tokens);
    a->n_keys = PICK(rng, keys);
    a->scale = (float)(1 / sqrt(a->d_k));
    switch (rng_below(rng, 4)) {
    case 0:
        a->n_visible = (int64_t)a->n_keys + 1 - a->n_tokens;
        break; // causal, keys just added
    case 1:
        a->n_visible = a->n_keys + rng_below(rng, 100);
        break;
    case 2:
        a->n_visible = -(int64_t)rng_below(rng, 40);
        break;
    default:
        a->n_visible = rng_below(rng, a->n_keys + 1);
        break;
    }
    if (rng_below(rng, 2)) a->n_window = 1 + rng_below(rng, 200);
}

static void test_random_shapes(void **state)
{
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
    printf("seed %d\n", SEED);
    for (int n = 0; n < (check_few() ? 80 : 250); n++) {
        struct problem p = {0};
        draw_case(&rng, &p.args);
        // The reference and the truth are slow: a bound on their steps.
        while (1.0 * p.args.n_tokens * p.args.group * p.args.n_keys * p.args.d_k > 2e6)
            p.args.n_keys /= 2;
        problem_open(&p, &rng, n % 2, n % 3 ? 1 : 8);
        check_problem(&p);
        problem_close(&p);
    }
}

// A plain case for the tests of single traits; the caller changes it before or after opening.
static struct problem plain_case(uint32_t d, uint32_t group, uint32_t n_tokens, uint32_t n_keys)
{
    struct problem p = {.args = {.kv_type = FATHOM_TYPE_F16,
                                 .d_k = d,
                                 .d_v = d,
                                 .group = group,
                                 .n_tokens = n_tokens,
                                 .n_keys = n_keys,
                                 .n_visible = (int64_t)n_keys + 1 - n_tokens,
                                 .scale = 0.125f}};
    return p;
}

static void test_each_shape(void **state)
{
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED + 1);
    for (uint32_t d = 0; d < COUNT(dims); d++)
        for (uint32_t n = 0; n < COUNT(keys) - 1; n++) {
            struct problem p =
                plain_case(dims[d], groups[(d + n) % COUNT(groups)], 1 + (d + n) % 3, keys[n]);
            p.args.d_v = dims[(d + n) % COUNT(dims)];
            problem_open(&p, &rng, true, 1);
            check_problem(&p);
            problem_close(&p);
        }
}

static void test_equal_scores(void **state)
{
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED + 2);
    struct problem p = plain_case(64, 4, 3, 1000);
    problem_open(&p, &rng, false, 0);
    check_problem(&p);
    problem_close(&p);
}

// Scores that rise or fall from key to key, slowly and steeply: what was gathered is rescaled
// often, and nothing may overflow before it is. Blocks that rise by some 88 are near where exp
// overflows.
static void test_steady_scores(void **state)
{
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED + 8);
    for (int n = 0; n < 12; n++) {
        struct problem p = plain_case(16, 4, 3, 700);
        problem_open(&p, &rng, false, 0);
        p.args.scale = (const float[]){0x1p-7f, 0x1p-5f, 1, 1.375f, 1.4f, 16}[n % 6];
        for (uint32_t row = 0; row < p.args.n_tokens * p.args.group; row++)
            p.q[row * p.args.d_k] = n < 6 ? 1 : -1;
        for (uint32_t j = 0; j < p.args.n_keys; j++)
            p.k_wide[j * p.args.d_k] =
                problem_put(FATHOM_TYPE_F16, p.k + j * p.args.k_stride_bytes, (float)j);
        check_problem(&p);
        problem_close(&p);
    }
}

// Scores of whole powers of two, exact in all types, far beyond the range of exp: only the greatest
// one counts, and the result is its value, exactly.
static void test_huge_scores(void **state)
{
    struct rng rng;
    struct kernel_table table;
    (void)state;
    rng_init(&rng, SEED + 3);
    for (int variant = 0; variant < K_VARIANTS; variant++) {
        if (!variant_init(variant, &table)) continue;
        struct problem p = plain_case(40, 3, 1, 200);
        problem_open(&p, &rng, false, 0);
        p.args.scale = 1;
        for (uint32_t g = 0; g < p.args.group; g++)
            p.q[g * p.args.d_k] = g == 1 ? -0x1p100f : 0x1p100f;
        for (uint32_t j = 0; j < p.args.n_keys; j++)
            problem_put(FATHOM_TYPE_F16, p.k + j * p.args.k_stride_bytes, (float)j - 100);
        problem_run(&p, &table);
        for (uint32_t g = 0; g < p.args.group; g++) {
            uint32_t best = g == 1 ? 0 : 199;
            assert_true(p.args.lse[g] == (g == 1 ? 100 : 99) * 0x1p100f);
            for (uint32_t i = 0; i < p.args.d_v; i++)
                assert_true(p.args.o[g * p.args.d_v + i] == p.v_wide[best * p.args.d_v + i]);
        }
        problem_close(&p);
    }
}

// A NaN in a key or value reaches all tokens that see it, and no other.
static void test_nan(void **state)
{
    struct rng rng;
    struct kernel_table table;
    (void)state;
    rng_init(&rng, SEED + 4);
    for (int n = 0; n < 2 * K_VARIANTS; n++) {
        bool in_key = n % 2;
        if (!variant_init(n / 2, &table)) continue;
        struct problem p = plain_case(80, 3, 16, 150);
        p.args.n_window = 20;
        problem_open(&p, &rng, false, 1);
        problem_solve(&p);
        uint32_t token_first = 9, bad = (uint32_t)p.args.n_visible - 1 + token_first;
        char *row = in_key ? p.k + bad * p.args.k_stride_bytes : p.v + bad * p.args.v_stride_bytes;
        problem_put(FATHOM_TYPE_F16, row + 2 * 79, NAN);
        problem_run(&p, &table);
        uint32_t first_row = token_first * p.args.group;
        for (uint32_t r = first_row; r < p.args.n_tokens * p.args.group; r++) {
            assert_true(isnan(p.args.o[r * 80 + 79]));
            assert_true(!in_key || (isnan(p.args.lse[r]) && isnan(p.args.o[r * 80])));
            // What is rightly NaN passes the comparison with what it was without.
            if (in_key) p.args.lse[r] = (float)p.lse_true[r];
            for (uint32_t i = in_key ? 0 : 79; i < 80; i++)
                p.args.o[r * 80 + i] = (float)p.o_true[r * 80 + i];
        }
        problem_compare(&p, k_variants[n / 2].name, 1);
        problem_close(&p);
    }
}

// Scores of -infinity weigh nothing; nothing but them is an empty set; +infinity is NaN.
static void test_infinity(void **state)
{
    struct rng rng;
    struct kernel_table table;
    (void)state;
    rng_init(&rng, SEED + 5);
    for (int variant = 0; variant < K_VARIANTS; variant++) {
        if (!variant_init(variant, &table)) continue;
        struct problem p = plain_case(16, 5, 1, 130);
        problem_open(&p, &rng, false, 1);
        for (uint32_t g = 0; g < 5; g++)
            p.q[g * 16] = 1;
        // All but the first 70 keys first drop out by their score, then are not seen at all.
        for (uint32_t j = 70; j < 130; j++)
            problem_put(FATHOM_TYPE_F16, p.k + j * p.args.k_stride_bytes, -INFINITY);
        p.args.n_visible = 70;
        problem_solve(&p);
        p.args.n_visible = 130;
        problem_run(&p, &table);
        problem_compare(&p, k_variants[variant].name, 1);

        for (uint32_t j = 0; j < 70; j++)
            problem_put(FATHOM_TYPE_F16, p.k + j * p.args.k_stride_bytes, -INFINITY);
        problem_run(&p, &table);
        for (uint32_t i = 0; i < 5 * 16; i++)
            assert_true(p.args.o[i] == 0);
        for (uint32_t g = 0; g < 5; g++)
            assert_true(p.args.lse[g] == -INFINITY);

        problem_put(FATHOM_TYPE_F16, p.k + 80 * p.args.k_stride_bytes, INFINITY);
        problem_run(&p, &table);
        for (uint32_t i = 0; i < 5 * 16; i++)
            assert_true(isnan(p.args.o[i]));
        for (uint32_t g = 0; g < 5; g++)
            assert_true(isnan(p.args.lse[g]));
        problem_close(&p);
    }
}

// Bit by bit the same whether tokens and heads come together or each alone.
static void test_deterministic(void **state)
{
    struct rng rng;
    struct kernel_table table;
    (void)state;
    rng_init(&rng, SEED + 6);
    for (int n = 0; n < 2 * K_VARIANTS; n++) {
        if (!variant_init(n / 2, &table)) continue;
        struct problem p = plain_case(96, 7, 33, 300);
        p.args.n_window = n % 2 ? 100 : 0;
        problem_open(&p, &rng, true, 1);
        problem_run(&p, &table);
        for (uint32_t t = 0; t < 33; t++)
            for (uint32_t g = 0; g < 7; g++) {
                float o[96], lse;
                struct attend_args one = p.args;
                one.q += t * one.q_stride + g * 96;
                one.n_visible += t;
                one.n_tokens = one.group = 1;
                one.o = o;
                one.lse = &lse;
                table.attend(&one);
                assert_memory_equal(o, p.args.o + t * p.args.o_stride + g * 96, sizeof o);
                assert_memory_equal(&lse, p.args.lse + t * p.args.lse_stride + g, sizeof lse);
            }
        problem_close(&p);
    }
}

// Attends to a random split of the keys and merges the partials into the problem's outputs.
static void attend_parts(struct problem *p, struct rng *rng, const struct kernel_table *table,
                         uint32_t n_parts, float *o, float *lse)
{
    const struct attend_args *a = &p->args;
    size_t n_rows = (size_t)a->n_tokens * a->group, o_count = n_rows * a->d_v;
    uint32_t begin = 0;
    for (uint32_t part = 0; part < n_parts; part++) {
        uint32_t end = begin + rng_below(rng, a->n_keys - begin + 1);
        if (part == n_parts - 1) end = a->n_keys;
        struct attend_args share = *a;
        share.k = (const char *)a->k + begin * a->k_stride_bytes;
        share.v = (const char *)a->v + begin * a->v_stride_bytes;
        share.n_keys = end - begin;
        share.n_visible = a->n_visible - begin;
        share.o = o + part * o_count;
        share.lse = lse + part * n_rows;
        table->attend(&share);
        begin = end;
    }
    struct merge_args merge = {.n_parts = n_parts,
                               .n_rows = n_rows,
                               .d_v = a->d_v,
                               .o = o,
                               .part_stride_o = o_count,
                               .lse = lse,
                               .part_stride_lse = n_rows,
                               .out_o = o, // onto part 0
                               .out_lse = lse};
    table->merge(&merge);
    memcpy(a->o, o, o_count * sizeof *o);
    memcpy(a->lse, lse, n_rows * sizeof *lse);
}

// A part's weight exp(lse_p - lse) has the error of both; each is within its bound, which a case's
// bound on lse covers, and rounded to f32. Bounds on o hold |o| times that of lse already, so twice
// the bounds are enough, and rounding is inside the tenth that they leave.
static void test_parts_merge(void **state)
{
    enum { PARTS = 8 };
    struct rng rng;
    struct kernel_table table;
    (void)state;
    rng_init(&rng, SEED + 7);
    for (int n = 0; n < 20 * K_VARIANTS; n++) {
        if (!variant_init(n % K_VARIANTS, &table)) continue;
        struct problem p = plain_case(PICK(&rng, dims), PICK(&rng, groups), 7, 500);
        if (n % 2) p.args.n_visible = 200; // some parts are empty
        problem_open(&p, &rng, false, 1);
        problem_solve(&p);
        problem_run(&p, &table);
        float *o, *lse;
        size_t n_rows = (size_t)p.args.n_tokens * p.args.group;
        check_ok(mem_new(PARTS * n_rows * p.args.d_v, sizeof *o, "parts", &o));
        check_ok(mem_new(PARTS * n_rows, sizeof *lse, "parts", &lse));
        attend_parts(&p, &rng, &table, 1 + rng_below(&rng, PARTS), o, lse);
        problem_compare(&p, k_variants[n % K_VARIANTS].name, 2);
        mem_free(o);
        mem_free(lse);
        problem_close(&p);
    }
}

static void test_merge_edges(void **state)
{
    struct kernel_table table;
    (void)state;
    for (int variant = 0; variant < K_VARIANTS; variant++) {
        if (!variant_init(variant, &table)) continue;
        const float e = -INFINITY;
        // Rows: one part empty, all empty, equal parts, NaN, far apart.
        float lse[2][5] = {{e, e, 1000, NAN, -3e38f}, {5, e, 1000, 1, 3e38f}};
        float o[2][5][2] = {{{NAN, NAN}, {7, 7}, {1, 2}, {1, 1}, {1, 2}},
                            {{3, 4}, {7, 7}, {3, 6}, {1, 1}, {3, 4}}};
        float out[5][2], out_lse[5];
        struct merge_args args = {2, 5, 2, o[0][0], 10, lse[0], 5, out[0], out_lse};
        table.merge(&args);
        const float want[5][2] = {{3, 4}, {0, 0}, {2, 4}, {NAN, NAN}, {3, 4}};
        const float want_lse[5] = {5, e, 1000.6931472f, NAN, 3e38f};
        for (int row = 0; row < 5; row++) {
            for (int i = 0; i < 2; i++)
                assert_true(out[row][i] == want[row][i] || (row == 3 && isnan(out[row][i])));
            assert_true(out_lse[row] == want_lse[row] || (row == 3 && isnan(out_lse[row])));
        }
        args.out_lse = NULL;
        args.n_parts = 0;
        table.merge(&args);
        assert_true(out[0][0] == 0 && out[4][1] == 0);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return attend_bench();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_shapes), cmocka_unit_test(test_each_shape),
        cmocka_unit_test(test_equal_scores),  cmocka_unit_test(test_huge_scores),
        cmocka_unit_test(test_nan),           cmocka_unit_test(test_infinity),
        cmocka_unit_test(test_deterministic), cmocka_unit_test(test_parts_merge),
        cmocka_unit_test(test_merge_edges),   cmocka_unit_test(test_steady_scores),
    };
    return check_run("k_attend", tests, COUNT(tests));
}
