// Attention over runs on the device against sums in double (tests/kernels/k_runs_truth.c): the
// shapes of its CPU kin, in launches of several KV heads.

#include "tests/gpu/k_runs_cuda.h"

#include "tests/gpu/gpu_bench.h"
#include "tests/gpu/gpu_rig.h"

#include <math.h>
#include <string.h>

enum { SEED = 41 };

// One or more KV heads of a kind; each further one has half of the rows of that before it.
static void open_heads(struct runs_heads *p, struct runs_problem kind, uint32_t n_heads,
                       struct rng *rng, float spread)
{
    *p = (struct runs_heads){.n_heads = n_heads, .n_sms = 1};
    for (uint32_t h = 0; h < n_heads; h++, kind.n_rows = (kind.n_rows + 1) / 2) {
        p->heads[h] = kind;
        p->heads[h].on_device = true;
        runs_open(&p->heads[h], rng, spread);
    }
}

static void close_heads(struct runs_heads *p)
{
    for (uint32_t h = 0; h < p->n_heads; h++)
        runs_close(&p->heads[h]);
}

static void check_heads(struct runs_heads *p)
{
    for (uint32_t h = 0; h < p->n_heads; h++)
        runs_solve(&p->heads[h]);
    runs_device(p);
    for (uint32_t h = 0; h < p->n_heads; h++)
        runs_compare(&p->heads[h], "device");
}

static void run_random_shapes(void)
{
    struct rng rng;
    rng_init(&rng, SEED);
    for (int n = 0; n < 40; n++) {
        struct runs_heads p;
        const struct runs_problem kind = runs_random_case(&rng, n, 3e5); // emulated: slow
        open_heads(&p, kind, 1 + rng_below(&rng, HEADS_MAX), &rng, n % 5 ? 1 : 4);
        p.n_sms = n % 2 ? 1 : 16;
        check_heads(&p);
        close_heads(&p);
    }
}

static void run_each_format(void)
{
    struct rng rng;
    rng_init(&rng, SEED + 1);
    for (uint32_t f = 0; f < RUNS_FORMATS; f++)
        for (uint32_t d = 0; d < RUNS_DIMS; d++) {
            const uint32_t some_groups[] = {1, 3, 4, 8};
            struct runs_heads p;
            struct runs_problem kind =
                runs_case(runs_formats[f], runs_dims[d], some_groups[(f + d) % 4],
                          1 + (f + d / 2) % 2, 50 + 7 * d, 1 + 13 * (d % 4));
            kind.args.accumulate = (f + d) % 2;
            open_heads(&p, kind, 1, &rng, 1);
            check_heads(&p);
            close_heads(&p);
        }
}

static void run_large_group(void)
{
    struct rng rng;
    rng_init(&rng, SEED + 2);
    for (uint32_t f = 0; f < RUNS_FORMATS; f++) {
        struct runs_heads p;
        open_heads(&p, runs_case(runs_formats[f], f % 2 ? 64 : 40, 255 + f % 2, 1, 40, 9), 1, &rng,
                   1);
        check_heads(&p);
        close_heads(&p);
    }
}

// Many parts, of which heads with fewer rows have none.
static void run_parts(void)
{
    struct rng rng;
    rng_init(&rng, SEED + 3);
    for (uint32_t f = 0; f < RUNS_FORMATS; f++) {
        struct runs_heads p;
        struct runs_problem kind = runs_case(runs_formats[f], 32, 4, 2, 1100, f % 2 ? 3 : 300);
        kind.args.accumulate = f % 2;
        open_heads(&p, kind, 2, &rng, 1);
        p.n_sms = 16;
        check_heads(&p);
        close_heads(&p);
    }
}

// Scores that rise or fall from row to row, slowly and steeply: what was gathered is rescaled
// often, and nothing may overflow before it is. Of whole numbers, exact in f16.
static void run_steady_scores(void)
{
    struct rng rng;
    rng_init(&rng, SEED + 4);
    for (int n = 0; n < 12; n++) {
        struct runs_heads p;
        open_heads(&p, runs_case(runs_formats[n % 2], 16, 4, 1, 250, 40), 1, &rng, 0);
        struct runs_problem *head = &p.heads[0];
        head->args.scale = (const float[]){0x1p-7f, 0x1p-5f, 1, 1.375f, 1.4f, 16}[n % 6];
        for (uint32_t g = 0; g < 4; g++)
            head->q[g * 16] = n < 6 ? 1 : -1;
        for (uint32_t j = 0; j < head->n_rows; j++)
            runs_put_k(head, j, 0, (float)j);
        check_heads(&p);
        close_heads(&p);
    }
}

// Values far smaller or greater than 1, in codes: the steps are not lost in 16 bits.
static void run_sizes_of_values(void)
{
    struct rng rng;
    rng_init(&rng, SEED + 5);
    for (uint32_t n = 0; n < 6; n++) {
        struct runs_heads p;
        open_heads(&p, runs_case(runs_formats[3 + n % 3], 80, 3, 1, 90, 9), 1, &rng, 1);
        runs_scale_v(&p.heads[0], n < 3 ? 0x1p-12f : 0x1p12f);
        check_heads(&p);
        close_heads(&p);
    }
}

// No rows: an empty partial, or the one that was there, bit by bit; and of one head only.
static void run_no_rows(void)
{
    struct rng rng;
    rng_init(&rng, SEED + 6);
    for (int n = 0; n < 8; n++) {
        struct runs_heads p;
        struct runs_problem kind = runs_case(runs_formats[n % 4], 80, 3, 2, 70, 7);
        kind.args.accumulate = n / 4;
        open_heads(&p, kind, 2, &rng, 1);
        const uint32_t n_empty = 1 + n / 2 % 2; // the last ones
        for (uint32_t h = 2 - n_empty; h < 2; h++)
            p.heads[h].args.n_runs = 0;
        runs_solve(&p.heads[0]);
        runs_device(&p);
        if (n_empty == 1) runs_compare(&p.heads[0], "device");
        const struct runs_problem *last = &p.heads[1];
        if (kind.args.accumulate) {
            assert_memory_equal(last->o, last->o_before, last->o_count * sizeof *last->o);
            assert_memory_equal(last->lse, last->lse_before, last->lse_count * sizeof *last->lse);
        }
        for (uint32_t i = 0; i < 3 * 80 && !kind.args.accumulate; i++)
            assert_true(last->args.o[i] == 0 && last->args.o[last->args.o_stride + i] == 0);
        for (uint32_t g = 0; g < 3 && !kind.args.accumulate; g++)
            assert_true(last->args.lse[g] == -INFINITY);
        close_heads(&p);
    }
}

// A NaN in a key reaches all, one in a value its column, one in a query or a partial its row; so
// does infinity in a query, where keys are codes.
static void run_nan(void)
{
    struct rng rng;
    rng_init(&rng, SEED + 7);
    for (uint32_t n = 0; n < 4 * RUNS_FORMATS; n++) {
        const uint32_t what = n % 4;
        const struct kv_format *format = &runs_formats[n / 4];
        if (format->bits != 0 && what < 2) continue;
        struct runs_heads p;
        struct runs_problem kind = runs_case(*format, 80, 3, 2, 75, 9);
        kind.args.accumulate = true;
        open_heads(&p, kind, 1, &rng, 1);
        struct runs_problem *head = &p.heads[0];
        const struct attend_runs_args *a = &head->args;
        runs_solve(head);
        const uint32_t bad = rng_below(&rng, 75);
        if (what == 0) runs_put_k(head, bad, 79, NAN);
        if (what == 1) runs_put_v(head, bad, 79, NAN);
        if (what == 2) head->q[a->q_stride + 2 * 80] = format->bits == 4 ? INFINITY : NAN; // row 5
        if (what == 3) head->lse_before[a->lse - head->lse + a->lse_stride + 2] = NAN; // likewise
        runs_device(&p);
        for (uint32_t row = 0; row < 6; row++) {
            float *o = a->o + row / 3 * a->o_stride + row % 3 * 80;
            float *lse = a->lse + row / 3 * a->lse_stride + row % 3;
            const bool hit = what < 2 || row == 5;
            for (uint32_t i = 0; i < 80; i++) {
                assert_int_equal(isnan(o[i]), hit && (what != 1 || i == 79));
                // What is rightly NaN passes the comparison with what it was without.
                if (isnan(o[i])) o[i] = (float)head->o_true[row * 80 + i];
            }
            assert_int_equal(isnan(*lse), hit && what != 1);
            if (isnan(*lse)) *lse = (float)head->lse_true[row];
        }
        runs_compare(head, "device");
        close_heads(&p);
    }
}

static void check_all(const struct runs_problem *p, bool is_nan)
{
    const uint32_t d = p->args.format.d_v;
    for (uint32_t i = 0; i < p->args.group * d; i++)
        assert_true(is_nan ? isnan(p->args.o[i]) : p->args.o[i] == 0);
    for (uint32_t g = 0; g < p->args.group; g++)
        assert_true(is_nan ? isnan(p->args.lse[g]) : p->args.lse[g] == -INFINITY);
}

// Scores of -infinity weigh nothing; nothing but them is an empty set; +infinity is NaN.
static void run_infinity(void)
{
    struct rng rng;
    rng_init(&rng, SEED + 8);
    for (uint32_t f = 0; f < 3; f++) {
        struct runs_heads p;
        open_heads(&p, runs_case(runs_formats[f], 16, 5, 1, 90, 7), 1, &rng, 1);
        struct runs_problem *head = &p.heads[0];
        for (uint32_t g = 0; g < 5; g++)
            head->q[g * 16] = 1;
        head->n_rows = 50; // the truth knows the first only
        runs_solve(head);
        head->n_rows = 90;
        for (uint32_t j = 50; j < 90; j++)
            runs_put_k(head, j, 0, -INFINITY);
        runs_device(&p);
        runs_compare(head, "device");
        for (uint32_t j = 0; j < 50; j++)
            runs_put_k(head, j, 0, -INFINITY);
        runs_device(&p);
        check_all(head, false);
        runs_put_k(head, 70, 0, INFINITY);
        runs_device(&p);
        check_all(head, true);
        close_heads(&p);
    }
}

// Bit by bit the same whatever the rows are called: many runs, or one for each row.
static void run_deterministic(void)
{
    struct rng rng;
    rng_init(&rng, SEED + 9);
    for (uint32_t f = 0; f < RUNS_FORMATS; f++) {
        struct runs_heads p;
        float o[2 * 3 * 96], lse[2 * 3];
        open_heads(&p, runs_case(runs_formats[f], 96, 3, 2, 150, 33), 1, &rng, 1);
        const struct attend_runs_args *a = &p.heads[0].args;
        p.n_sms = 4;
        for (int i = 0; i < 2; i++) {
            p.is_single = i == 1;
            runs_device(&p);
            for (uint32_t t = 0; t < 2; t++) {
                float *o_to = o + (size_t)t * 3 * 96, *lse_to = lse + (size_t)t * 3;
                const float *o_got = a->o + t * a->o_stride, *lse_got = a->lse + t * a->lse_stride;
                if (i == 1) assert_memory_equal(o_to, o_got, 3 * 96 * sizeof(float));
                if (i == 1) assert_memory_equal(lse_to, lse_got, 3 * sizeof(float));
                memcpy(o_to, o_got, 3 * 96 * sizeof(float));
                memcpy(lse_to, lse_got, 3 * sizeof(float));
            }
        }
        close_heads(&p);
    }
}

GPU_TEST(random_shapes)
GPU_TEST(each_format)
GPU_TEST(large_group)
GPU_TEST(parts)
GPU_TEST(steady_scores)
GPU_TEST(sizes_of_values)
GPU_TEST(no_rows)
GPU_TEST(nan)
GPU_TEST(infinity)
GPU_TEST(deterministic)

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return gpu_bench(argc > 2 ? argv[2] : NULL);
    printf("seed %d\n", SEED);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_shapes), cmocka_unit_test(test_each_format),
        cmocka_unit_test(test_large_group),   cmocka_unit_test(test_parts),
        cmocka_unit_test(test_steady_scores), cmocka_unit_test(test_sizes_of_values),
        cmocka_unit_test(test_no_rows),       cmocka_unit_test(test_nan),
        cmocka_unit_test(test_infinity),      cmocka_unit_test(test_deterministic),
    };
    return gpu_run("k_runs_cuda", tests, COUNT(tests));
}
