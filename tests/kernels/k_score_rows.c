// Scores of codes of K, weighted sums of rows, and log-sum-exp, against double.

#include "tests/kernels/k_score.h"

#include "tests/check.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "src/base/half.h"
#include "src/base/mem.h"

enum { SEED = 22, ROWS_MAX = 70, OUT_STRIDE = ROWS_MAX + 3 };
static const double u = 0x1p-24;
static const float canary = 12345.5f;

struct rows {
    uint32_t bits, d, group;
    float q[SCORE_GROUP_MAX * SCORE_D_MAX];
    float k_min[SCORE_D_MAX], k_step[SCORE_D_MAX];
    float out[SCORE_GROUP_MAX * OUT_STRIDE];
    float slack[SCORE_GROUP_MAX];
    uint8_t codes[ROWS_MAX][SCORE_D_MAX];
    void *packed, *memory;
    uint8_t *k;                // [n_rows], not aligned
    uint32_t places[ROWS_MAX]; // where row j lies among them
};

static void fill_codes(struct rows *p, struct rng *rng, uint32_t n_rows)
{
    uint32_t code_max = (1u << p->bits) - 1, piece = 128 / p->bits;
    size_t row_bytes = kv_code_bytes(p->bits, p->d);
    float folded[SCORE_D_MAX];
    for (uint32_t j = 0; j < n_rows; j++) { // in no order
        const uint32_t other = rng_below(rng, j + 1);
        p->places[j] = p->places[other];
        p->places[other] = j;
    }
    for (uint32_t j = 0; j < n_rows; j++) {
        for (uint32_t c = 0; c < p->d; c++)
            folded[c] = p->q[j / 4 % p->group * p->d + c] * p->k_step[c];
        for (uint32_t c = 0; c < p->d; c++) {
            bool up = score_residual(folded, p->d, c, 127) > 0;
            uint32_t code = rng_below(rng, code_max + 1);
            if (j % 4 < 2) code = up == (j % 4 == 0) ? code_max : 0;
            p->codes[j][c] = (uint8_t)code;
            p->k[p->places[j] * row_bytes + c / piece * KV_PIECE_BYTES +
                 c % piece % KV_PIECE_BYTES] |=
                (uint8_t)(code << c % piece / KV_PIECE_BYTES * p->bits);
        }
    }
}

static void open_rows(struct rows *p, const struct kernel_table *table, struct rng *rng,
                      enum query_kind kind, uint32_t n_rows)
{
    check_ok(mem_new(1, packed_query_bytes(p->group), "query", &p->packed));
    check_ok(mem_new(1, n_rows * kv_code_bytes(p->bits, p->d) + 1, "rows", &p->memory));
    p->k = (uint8_t *)p->memory + 1;
    score_fill_query(rng, kind, p->q, p->group * p->d);
    for (uint32_t c = 0; c < p->d; c++) {
        p->k_min[c] = rng_normal(rng) - 2;
        p->k_step[c] = c % 9 == 7 ? 0 : (float)rng_unit(rng) * (c % 50 == 3 ? 5 : 0.3f);
    }
    fill_codes(p, rng, n_rows);
    table->kv.pack_row_query(p->bits, p->q, p->group, p->d, p->k_min, p->k_step, p->packed,
                             p->slack);
}

static void close_rows(struct rows *p)
{
    mem_free(p->packed);
    mem_free(p->memory);
}

static void score_rows(struct rows *p, const struct kernel_table *table, uint32_t n_rows)
{
    const uint8_t *at[ROWS_MAX];
    for (size_t i = 0; i < sizeof p->out / sizeof p->out[0]; i++)
        p->out[i] = canary;
    for (uint32_t j = 0; j < n_rows; j++)
        at[j] = p->k + p->places[j] * kv_code_bytes(p->bits, p->d);
    const struct score_rows_args args = {.q = p->packed,
                                         .group = p->group,
                                         .d = p->d,
                                         .bits = p->bits,
                                         .rows = at,
                                         .n_rows = n_rows,
                                         .out = p->out,
                                         .out_stride = OUT_STRIDE};
    table->kv.score_rows(&args);
    for (uint32_t i = 0; i < SCORE_GROUP_MAX * OUT_STRIDE; i++)
        if (i / OUT_STRIDE >= p->group || i % OUT_STRIDE >= n_rows)
            assert_true(p->out[i] == canary);
}

// A slack that is true but useless would pass the other checks: rounding to 127 codes of either
// sign loses half a step of each channel, of which a code's half range may be made.
static void check_slack(const struct rows *p, uint32_t g)
{
    double half_range = ((1u << p->bits) - 1) / 2.0, size = 0, top = 0;
    for (uint32_t c = 0; c < p->d; c++) {
        double fold = fabs((double)p->q[g * p->d + c] * p->k_step[c]);
        size += fabs((double)p->q[g * p->d + c] * p->k_min[c]) + half_range * fold;
        top = fmax(top, fold);
    }
    assert_true(p->slack[g] <= half_range * 0.51 / 127 * top * p->d + 1e-4 * size);
}

static void check_rows(const struct rows *p, const char *variant, uint32_t n_rows)
{
    for (uint32_t g = 0; g < p->group; g++) {
        const float *q = p->q + g * p->d;
        check_slack(p, g);
        for (uint32_t j = 0; j < n_rows; j++) {
            double sum = 0;
            for (uint32_t c = 0; c < p->d; c++)
                sum += q[c] * (p->k_min[c] + (double)p->k_step[c] * p->codes[j][c]);
            double got = p->out[g * OUT_STRIDE + j];
            if (!(fabs(got - sum) <= p->slack[g]))
                fail_msg("%s: %u bits d %u group %u: head %u, row %u of %u: %g, want %g +- %g",
                         variant, p->bits, p->d, p->group, g, j, n_rows, got, sum, p->slack[g]);
        }
    }
}

void test_score_rows(void **state)
{
    (void)state;
    static const uint32_t dims[] = {1, 8, 31, 64, 80, 96, 128, 256}, groups[] = {1, 3, 4, 8, 16};
    static const uint32_t counts[] = {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 40, 64, ROWS_MAX};
    enum { DIMS = 8, GROUPS = 5, COUNTS = 14 };
    static struct rows p;
    static float first[SCORE_GROUP_MAX];
    struct kernel_table table;
    struct rng rng;
    const char *name;
    rng_init(&rng, SEED);
    printf("seed %d\n", SEED);
    for (uint32_t round = 0; round < SCORE_VARIANTS * 2 * GROUPS * DIMS; round++) {
        p.d = dims[round % DIMS];
        p.group = groups[round / DIMS % GROUPS];
        p.bits = round / DIMS / GROUPS % 2 ? 8 : 4;
        if (!score_variant(round / DIMS / GROUPS / 2, &table, &name)) continue;
        for (uint32_t i = 0; i < COUNTS; i++) {
            enum query_kind kind = (round + i) % QUERY_KINDS;
            open_rows(&p, &table, &rng, kind, counts[i]);
            score_rows(&p, &table, counts[i]);
            check_rows(&p, name, counts[i]);
            for (uint32_t g = 0; g < p.group; g++)
                first[g] = p.out[g * OUT_STRIDE];
            score_rows(&p, &table, counts[i] > 0);
            for (uint32_t g = 0; g < p.group; g++) // the same bits, whatever rows come with it
                assert_memory_equal(&first[g], &p.out[g * OUT_STRIDE], sizeof(float));
            close_rows(&p);
        }
    }
}

// One head's NaN or infinity is that head's alone.
void test_score_rows_nan(void **state)
{
    (void)state;
    static struct rows p;
    static float sane[SCORE_GROUP_MAX * OUT_STRIDE];
    struct kernel_table table;
    struct rng rng;
    const char *name;
    rng_init(&rng, SEED);
    for (int round = 0; round < SCORE_VARIANTS * 4; round++) {
        p.group = 3, p.d = 40, p.bits = round % 2 ? 8 : 4;
        if (!score_variant(round / 4, &table, &name)) continue;
        open_rows(&p, &table, &rng, QUERY_NORMAL, ROWS_MAX);
        score_rows(&p, &table, ROWS_MAX);
        memcpy(sane, p.out, sizeof sane);
        p.q[p.d + 9] = round / 2 % 2 ? NAN : INFINITY;
        table.kv.pack_row_query(p.bits, p.q, p.group, p.d, p.k_min, p.k_step, p.packed, p.slack);
        score_rows(&p, &table, ROWS_MAX);
        assert_false(isfinite(p.slack[1]));
        for (uint32_t j = 0; j < ROWS_MAX; j++)
            assert_false(isfinite(p.out[OUT_STRIDE + j]));
        assert_memory_equal(p.out, sane, ROWS_MAX * sizeof(float));
        assert_memory_equal(p.out + 2 * OUT_STRIDE, sane + 2 * OUT_STRIDE,
                            ROWS_MAX * sizeof(float));
        close_rows(&p);
    }
}

// A sum of n products in any order errs by (n + 1) u of the sum of their sizes.
void test_blend_rows(void **state)
{
    (void)state;
    enum { COUNT_MAX = 100, WEIGHT_STRIDE = COUNT_MAX + 5 };
    static const uint32_t dims[] = {1, 7, 16, 33, 64, 80, 128, 200, 256}, groups[] = {1, 3, 4, 6};
    static const uint32_t counts[] = {0, 1, 2, 31, 32, 33, COUNT_MAX};
    static float weight[6 * WEIGHT_STRIDE], o[6 * SCORE_D_MAX + 1], start[6 * SCORE_D_MAX];
    static uint16_t rows[COUNT_MAX * SCORE_D_MAX];
    struct kernel_table table;
    struct rng rng;
    const char *name;
    rng_init(&rng, SEED);
    for (uint32_t round = 0; round < SCORE_VARIANTS * 9 * 4 * 7; round++) {
        uint32_t n = counts[round % 7], group = groups[round / 7 % 4], d = dims[round / 28 % 9];
        if (!score_variant(round / 28 / 9, &table, &name)) continue;
        for (uint32_t i = 0; i < group * WEIGHT_STRIDE; i++)
            weight[i] = i % WEIGHT_STRIDE < n ? rng_normal(&rng) : NAN;
        for (uint32_t i = 0; i < n * d; i++)
            rows[i] = half_from_float(rng_normal(&rng));
        for (uint32_t i = 0; i < group * d; i++)
            o[i] = start[i] = rng_normal(&rng);
        if (n > 5 && group == 3) weight[WEIGHT_STRIDE + 5] = NAN;
        o[group * d] = canary;
        table.kv.blend_rows(weight, WEIGHT_STRIDE, group, rows, n, d, o);
        assert_true(o[group * d] == canary);
        for (uint32_t i = 0; i < group * d; i++) {
            double sum = start[i], size = fabs(sum);
            for (uint32_t j = 0; j < n; j++) {
                double term =
                    (double)weight[i / d * WEIGHT_STRIDE + j] * half_to_float(rows[j * d + i % d]);
                sum += term;
                size += fabs(term);
            }
            if (!(fabs(o[i] - sum) <= (n + 1) * u * size) && !(isnan(sum) && isnan(o[i])))
                fail_msg("%s: blend of %u rows, d %u: [%u] = %g, want %g", name, n, d, i, o[i],
                         sum);
        }
    }
}

// Exponentials err by 4 u, and by u |x - base| more through the rounding of their argument; sums
// of positive terms by 80 u; the base and the logarithm by 2 u of the result.
static void check_lse(const struct kernel_table *table, const char *name, const float *x,
                      const float *weight, size_t n)
{
    double max = -INFINITY, sum = 0, error = 0;
    for (size_t i = 0; i < n; i++)
        if (weight == NULL || weight[i] > 0) max = fmax(max, x[i]);
    for (size_t i = 0; i < n; i++) {
        double w = weight == NULL ? 1 : weight[i];
        if (w == 0 || x[i] == -INFINITY) continue;
        sum += w * exp(x[i] - max);
        error += w * (exp(x[i] - max) * (84 + fabs(x[i] - max)) * u + 0x1p-148);
    }
    double want = max == -INFINITY ? -INFINITY : max + log(sum);
    double got = table->kv.log_sum_exp(x, weight, n);
    double bound = 1.1 * error / sum + 2 * u * (fabs(max) + fabs(want));
    if (got != want && !(fabs(got - want) <= bound))
        fail_msg("%s: log-sum-exp of %zu: %.9g, want %.9g +- %g", name, n, got, want, bound);
}

void test_log_sum_exp(void **state)
{
    (void)state;
    enum { COUNT_MAX = 5000 };
    static const size_t counts[] = {0, 1, 2, 7, 8, 15, 16, 17, 33, 100, 1023, 1025, COUNT_MAX};
    static float x[COUNT_MAX], weight[COUNT_MAX];
    struct kernel_table table;
    struct rng rng;
    const char *name;
    rng_init(&rng, SEED);
    for (int round = 0; round < SCORE_VARIANTS * 13 * 5 * 4; round++) {
        size_t n = counts[round % 13];
        int trait = round / 13 % 4;
        if (!score_variant(round / 13 / 20, &table, &name)) continue;
        for (size_t i = 0; i < n; i++) {
            x[i] = rng_normal(&rng) * (const float[]){1, 10, 100, 1e4f, 1e30f}[round / 13 / 4 % 5];
            weight[i] = trait == 1 ? 8 * (float)rng_unit(&rng) : (float)rng_below(&rng, 3);
            // What has no weight must not matter.
            if (trait > 1 && weight[i] == 0) x[i] = (const float[]){NAN, INFINITY, 3e38f}[i % 3];
            if (trait == 3 && i % 2) x[i] = -INFINITY;
        }
        check_lse(&table, name, x, trait == 0 ? NULL : weight, n);
    }
}

void test_log_sum_exp_special(void **state)
{
    (void)state;
    enum { N = 37 };
    struct kernel_table table;
    const char *name;
    for (int variant = 0; variant < SCORE_VARIANTS; variant++) {
        if (!score_variant(variant, &table, &name)) continue;
        for (int at = 0; at < N; at++) {
            float x[N] = {0}, weight[N] = {0};
            assert_true(table.kv.log_sum_exp(x, weight, N) == -INFINITY);
            weight[at] = 1;
            x[at] = INFINITY;
            assert_true(table.kv.log_sum_exp(x, weight, N) == INFINITY);
            assert_true(table.kv.log_sum_exp(x, NULL, N) == INFINITY);
            x[at] = -INFINITY;
            assert_true(table.kv.log_sum_exp(x, weight, N) == -INFINITY);
            x[at] = NAN;
            assert_true(isnan(table.kv.log_sum_exp(x, weight, N)));
            assert_true(isnan(table.kv.log_sum_exp(x, NULL, N)));
            x[at] = 0;
            weight[at] = NAN;
            assert_true(isnan(table.kv.log_sum_exp(x, weight, N)));
        }
    }
}
