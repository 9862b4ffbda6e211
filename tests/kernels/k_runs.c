// Attention over runs of sealed rows against sums in double (k_runs_truth.c), and the codes of
// rows (k_runs_codec.c), for each rung of the ladder; with --bench, their speed (k_runs_bench.c).

#include "tests/kernels/k_runs.h"

#include "tests/check.h"

#include <math.h>
#include <string.h>

#include "cpu/cpu_kernels.h"
#include "cpu/ladder.h"
#include "fathom/device.h"
#include "src/base/mem.h"

enum { SEED = 11 };

bool runs_variant(int variant, struct kernel_table *table)
{
    const uint32_t avx512 = FATHOM_ISA_AVX2 | FATHOM_ISA_AVX512;
    const uint32_t masks[RUNS_VARIANTS] = {0, FATHOM_ISA_AVX2, avx512,
                                           avx512 | FATHOM_ISA_AVX512_VNNI};
    if ((masks[variant] & ~ladder_isa()) != 0) return false;
    cpu_kernels_init(table, masks[variant]);
    return true;
}

static void check_problem(struct runs_problem *p)
{
    struct kernel_table table;
    runs_solve(p);
    for (int variant = 0; variant < RUNS_VARIANTS; variant++) {
        if (!runs_variant(variant, &table)) continue;
        runs_run(p, &table);
        runs_compare(p, table.name);
    }
}

static void test_random_shapes(void **state)
{
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
    printf("seed %d\n", SEED);
    for (int n = 0; n < (check_few() ? 100 : 300); n++) {
        struct runs_problem p = runs_random_case(&rng, n, 1e6);
        runs_open(&p, &rng, n % 5 ? 1 : 4);
        check_problem(&p);
        runs_close(&p);
    }
}

static void test_each_format(void **state)
{
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED + 1);
    for (uint32_t f = 0; f < RUNS_FORMATS; f++)
        for (uint32_t d = 0; d < RUNS_DIMS; d++)
            for (uint32_t g = 0; g < 4; g++) {
                const uint32_t some_groups[] = {1, 3, 4, 8};
                struct runs_problem p = runs_case(runs_formats[f], runs_dims[d], some_groups[g],
                                                  1 + (f + d + g) % 2, 50 + 7 * d, 1 + 13 * g);
                p.args.accumulate = (f + d) % 2;
                runs_open(&p, &rng, 1);
                check_problem(&p);
                runs_close(&p);
            }
}

static void test_large_group(void **state)
{
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED + 2);
    for (uint32_t f = 0; f < RUNS_FORMATS; f++) {
        struct runs_problem p = runs_case(runs_formats[f], 256, 255 + f % 2, 1, 40, 9);
        runs_open(&p, &rng, 1);
        check_problem(&p);
        runs_close(&p);
    }
}

// Scores that rise or fall from row to row, slowly and steeply: what was gathered is rescaled
// often, and nothing may overflow before it is.
static void test_steady_scores(void **state)
{
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED + 3);
    for (int n = 0; n < 12; n++) {
        struct runs_problem p = runs_case(runs_formats[1], 16, 4, 3, 700, 40);
        runs_open(&p, &rng, 0);
        p.args.scale = (const float[]){0x1p-7f, 0x1p-5f, 1, 1.375f, 1.4f, 16}[n % 6];
        for (uint32_t row = 0; row < 12; row++)
            p.q[row / 4 * p.args.q_stride + row % 4 * 16] = n < 6 ? 1 : -1;
        for (uint32_t j = 0; j < p.n_rows; j++)
            runs_put_k(&p, j, 0, (float)j);
        check_problem(&p);
        runs_close(&p);
    }
}

// No rows: an empty partial, or the one that was there, bit by bit.
static void test_no_rows(void **state)
{
    struct rng rng;
    struct kernel_table table;
    (void)state;
    rng_init(&rng, SEED + 4);
    const struct kv_run nothing = {0};
    for (int n = 0; n < 4 * RUNS_VARIANTS; n++) {
        if (!runs_variant(n / 4, &table)) continue;
        struct runs_problem p = runs_case(runs_formats[1], 80, 3, 2, 1, 1);
        p.args.accumulate = n % 2;
        runs_open(&p, &rng, 1);
        p.args.n_runs = n / 2 % 2;
        p.args.runs = n / 2 % 2 ? &nothing : NULL;
        runs_run(&p, &table);
        if (p.args.accumulate) {
            assert_memory_equal(p.o, p.o_before, p.o_count * sizeof *p.o);
            assert_memory_equal(p.lse, p.lse_before, p.lse_count * sizeof *p.lse);
        }
        for (uint32_t i = 0; i < 3 * 80 && !p.args.accumulate; i++)
            assert_true(p.args.o[i] == 0 && p.args.o[p.args.o_stride + i] == 0);
        for (uint32_t g = 0; g < 3 && !p.args.accumulate; g++)
            assert_true(p.args.lse[g] == -INFINITY);
        runs_close(&p);
    }
}

// A NaN in a key reaches all, one in a value its column, one in a query or a partial its row; so
// does infinity in a query, where keys are codes.
static void test_nan(void **state)
{
    struct rng rng;
    struct kernel_table table;
    (void)state;
    rng_init(&rng, SEED + 5);
    for (uint32_t n = 0; n < 4 * RUNS_VARIANTS * RUNS_FORMATS; n++) {
        const uint32_t what = n % 4, variant = n / 4 % RUNS_VARIANTS;
        const struct kv_format *format = &runs_formats[n / 4 / RUNS_VARIANTS];
        if (!runs_variant((int)variant, &table) || (format->bits != 0 && what < 2)) continue;
        struct runs_problem p = runs_case(*format, 80, 3, 2, 75, 9);
        p.args.accumulate = true;
        runs_open(&p, &rng, 1);
        runs_solve(&p);
        uint32_t bad = rng_below(&rng, 75);
        if (what == 0) runs_put_k(&p, bad, 79, NAN);
        if (what == 1) runs_put_v(&p, bad, 79, NAN);
        if (what == 2) p.q[p.args.q_stride + 2 * 80] = format->bits == 4 ? INFINITY : NAN; // row 5
        if (what == 3) p.lse_before[p.args.lse - p.lse + p.args.lse_stride + 2] = NAN; // likewise
        runs_run(&p, &table);
        for (uint32_t row = 0; row < 6; row++) {
            float *o = p.args.o + row / 3 * p.args.o_stride + row % 3 * 80;
            float *lse = p.args.lse + row / 3 * p.args.lse_stride + row % 3;
            bool hit = what < 2 || row == 5;
            for (uint32_t i = 0; i < 80; i++) {
                assert_int_equal(isnan(o[i]), hit && (what != 1 || i == 79));
                // What is rightly NaN passes the comparison with what it was without.
                if (isnan(o[i])) o[i] = (float)p.o_true[row * 80 + i];
            }
            assert_int_equal(isnan(*lse), hit && what != 1);
            if (isnan(*lse)) *lse = (float)p.lse_true[row];
        }
        runs_compare(&p, table.name);
        runs_close(&p);
    }
}

// Scores of -infinity weigh nothing; nothing but them is an empty set; +infinity is NaN.
static void test_infinity(void **state)
{
    struct rng rng;
    struct kernel_table table;
    (void)state;
    rng_init(&rng, SEED + 6);
    for (int variant = 0; variant < RUNS_VARIANTS; variant++) {
        if (!runs_variant(variant, &table)) continue;
        struct runs_problem p = runs_case(runs_formats[1], 16, 5, 1, 90, 7);
        runs_open(&p, &rng, 1);
        for (uint32_t g = 0; g < 5; g++)
            p.q[g * 16] = 1;
        p.n_rows = 50; // the truth knows the first only
        runs_solve(&p);
        p.n_rows = 90;
        for (uint32_t j = 50; j < 90; j++)
            runs_put_k(&p, j, 0, -INFINITY);
        runs_run(&p, &table);
        runs_compare(&p, table.name);
        for (uint32_t j = 0; j < 50; j++)
            runs_put_k(&p, j, 0, -INFINITY);
        runs_run(&p, &table);
        for (uint32_t i = 0; i < 5 * 16; i++)
            assert_true(p.args.o[i] == 0);
        for (uint32_t g = 0; g < 5; g++)
            assert_true(p.args.lse[g] == -INFINITY);
        runs_put_k(&p, 70, 0, INFINITY);
        runs_run(&p, &table);
        for (uint32_t i = 0; i < 5 * 16; i++)
            assert_true(isnan(p.args.o[i]));
        for (uint32_t g = 0; g < 5; g++)
            assert_true(isnan(p.args.lse[g]));
        runs_close(&p);
    }
}

// Bit by bit the same whether tokens and heads come together or each alone, whatever the rows are
// called: many runs, or one for each row; and whatever comes next.
static void test_deterministic(void **state)
{
    struct rng rng;
    struct kernel_table table;
    struct kv_run single[300];
    (void)state;
    rng_init(&rng, SEED + 7);
    for (uint32_t n = 0; n < RUNS_FORMATS * RUNS_VARIANTS; n++) {
        const uint32_t d = 96, group = 7, n_tokens = 17;
        if (!runs_variant((int)(n % RUNS_VARIANTS), &table)) continue;
        struct runs_problem p =
            runs_case(runs_formats[n / RUNS_VARIANTS], d, group, n_tokens, 100, 33);
        runs_open(&p, &rng, 1);
        runs_run(&p, &table);
        uint32_t n_single = 0;
        for (uint32_t r = 0; r < p.args.n_runs; r++)
            for (uint32_t j = 0; j < p.runs[r].n_rows; j++)
                single[n_single++] = (struct kv_run){
                    (const char *)p.runs[r].k + j * kv_k_row_bytes(&p.args.format),
                    (const char *)p.runs[r].v + j * kv_v_row_bytes(&p.args.format), 1};
        memcpy(single + n_single, single, n_single * sizeof *single); // next
        for (uint32_t t = 0; t < n_tokens; t++)
            for (uint32_t g = 0; g < group; g++) {
                float o[96], lse;
                struct attend_runs_args one = p.args;
                one.q += t * one.q_stride + g * d;
                one.n_tokens = one.group = 1;
                one.runs = single;
                one.n_runs = one.n_next = n_single;
                one.o = o;
                one.lse = &lse;
                table.kv.attend_runs(&one);
                assert_memory_equal(o, p.args.o + t * p.args.o_stride + g * d, sizeof o);
                assert_memory_equal(&lse, p.args.lse + t * p.args.lse_stride + g, sizeof lse);
            }
        runs_close(&p);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return runs_bench();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_code_layout),   cmocka_unit_test(test_code_round_trip),
        cmocka_unit_test(test_code_exact),    cmocka_unit_test(test_code_edges),
        cmocka_unit_test(test_each_format),   cmocka_unit_test(test_random_shapes),
        cmocka_unit_test(test_large_group),   cmocka_unit_test(test_no_rows),
        cmocka_unit_test(test_nan),           cmocka_unit_test(test_infinity),
        cmocka_unit_test(test_deterministic), cmocka_unit_test(test_steady_scores),
    };
    return check_run("k_runs", tests, COUNT(tests));
}
