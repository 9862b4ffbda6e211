// The vector kernels (norms, rotary, softmax, activations, number types) against double, for each
// rung of the ladder; with --bench, their speed.
//
// Bounds, u = 2^-24, first order with room to spare: a sum of n positive terms by lanes errs by
// (n / 8 + 8) u relative; an exponential by 2 u, and by u |x| more through the rounding of its
// argument; the other steps by u each. Results below the normal numbers may be off by 2^-149 times
// what they are multiplied with.

#include "tests/check.h"

#include <math.h>
#include <string.h>

#include "cpu/cpu_kernels.h"
#include "cpu/ladder.h"
#include "fathom/fathom.h"
#include "src/base/half.h"
#include "src/base/mem.h"
#include "src/base/rng.h"
#include "tests/kernels/k_bench.h"

enum { SEED = 11, COUNT_MAX = 1000, PAD = 8 };
static const size_t counts[] = {0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, COUNT_MAX};
enum { COUNTS = sizeof counts / sizeof counts[0] };
static const double u = 0x1p-24;
static const float canary = 12345.5f;

// Values at an address that is aligned to a float only, canaries before and behind them.
struct values {
    float block[COUNT_MAX + 2 * PAD];
    float *at; // [n]
    size_t n;
};

static struct values *fill_values(struct values *values, struct rng *rng, size_t n, float spread)
{
    for (size_t i = 0; i < COUNT_MAX + 2 * PAD; i++)
        values->block[i] = canary;
    values->at = values->block + 1 + rng_below(rng, PAD - 1);
    values->n = n;
    for (size_t i = 0; i < n; i++)
        values->at[i] = rng_normal(rng) * spread;
    return values;
}

static void check_canaries(const struct values *values)
{
    for (const float *at = values->block; at < values->at; at++)
        assert_true(*at == canary);
    for (const float *at = values->at + values->n; at < values->block + COUNT_MAX + 2 * PAD; at++)
        assert_true(*at == canary);
}

static void check_near(const char *variant, const char *what, size_t n, size_t i, double got,
                       double want, double bound)
{
    if ((isnan(want) && isnan(got)) || got == want || fabs(got - want) <= bound) return;
    fail_msg("%s: %s of %zu: [%zu] = %.9g, want %.9g +- %.3g", variant, what, n, i, got, want,
             bound);
}

static bool variant_init(int variant, struct kernel_table *table)
{
    if ((k_variants[variant].mask & ~ladder_isa()) != 0) return false;
    cpu_kernels_init(table, k_variants[variant].mask);
    return true;
}

// Runs a check for each variant that the machine has.
static void each_variant(void (*check)(const struct kernel_table *, const char *, struct rng *))
{
    struct kernel_table table;
    printf("seed %d\n", SEED);
    for (int variant = 0; variant < K_VARIANTS; variant++) {
        struct rng rng;
        rng_init(&rng, SEED);
        if (variant_init(variant, &table)) check(&table, k_variants[variant].name, &rng);
    }
}

static float float_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void check_halves(int32_t type, const char *variant, const float *x, const uint16_t *got,
                         size_t n)
{
    bool f16 = type == FATHOM_TYPE_F16;
    for (size_t i = 0; i < n; i++) {
        uint16_t want = f16 ? half_from_float(x[i]) : bf16_from_float(x[i]);
        if (isnan(x[i]) ? (got[i] & (f16 ? 0x7e00 : 0x7fc0)) != (f16 ? 0x7e00 : 0x7fc0)
                        : got[i] != want)
            fail_msg("%s: type %d: %a becomes %04x, want %04x", variant, type, x[i], got[i], want);
    }
}

// Any bits, values about which rounding turns, and each length.
static void check_convert(const struct kernel_table *table, const char *variant, struct rng *rng)
{
    static float x[COUNT_MAX];
    uint16_t halves[COUNT_MAX + 1];
    for (int32_t type = FATHOM_TYPE_F16; type != 0;
         type = type == FATHOM_TYPE_F16 ? FATHOM_TYPE_BF16 : 0)
        for (int round = 0; round < 300; round++) {
            size_t n = counts[round % COUNTS];
            for (size_t i = 0; i < n; i++) {
                uint32_t bits = (uint32_t)rng_u64(rng);
                // Exponents of f16 and its subnormals; ties and their neighbours of both types.
                if (round % 3 == 1) bits = (bits & 0x8fffffff) | 0x30000000;
                if (round % 3 == 2) bits = (bits & 0xffff0000) | (0x7fff + rng_below(rng, 3));
                x[i] = float_from_bits(bits);
            }
            halves[n] = 0x1234;
            table->convert(type, x, halves, n);
            check_halves(type, variant, x, halves, n);
            assert_int_equal(halves[n], 0x1234);
        }
    float specials[] = {0.0f,       -0.0f,      INFINITY,   -INFINITY,       NAN,
                        65504,      65519.99f,  65520,      0x1p-24f,        0x1p-25f,
                        0x1.8p-25f, 0x1.002p0f, 0x1.006p0f, 0x1.fffffep127f, 0x1p-149f};
    size_t n = sizeof specials / sizeof specials[0];
    table->convert(FATHOM_TYPE_F16, specials, halves, n);
    check_halves(FATHOM_TYPE_F16, variant, specials, halves, n);
    table->convert(FATHOM_TYPE_BF16, specials, halves, n);
    check_halves(FATHOM_TYPE_BF16, variant, specials, halves, n);
    float copy[3];
    table->convert(FATHOM_TYPE_F32, specials, copy, 3);
    assert_memory_equal(copy, specials, sizeof copy);
}

static void check_rmsnorm(const struct kernel_table *table, const char *variant, struct rng *rng)
{
    static struct values x, weight, out;
    for (int round = 0; round < 4 * COUNTS; round++) {
        size_t n_cols = counts[round % COUNTS], n_rows = n_cols <= 100 ? 3 : 1;
        bool in_place = round / COUNTS % 2;
        fill_values(&x, rng, n_rows * n_cols, round / COUNTS < 2 ? 1 : 1e-4f);
        fill_values(&weight, rng, n_cols, 1);
        fill_values(&out, rng, n_rows * n_cols, 1);
        if (n_rows * n_cols > 2 && round == 5) x.at[1] = NAN;
        double truth[COUNT_MAX] = {0};
        for (size_t i = 0; i < n_rows * n_cols; i++) {
            double sum = 0;
            for (size_t c = 0; c < n_cols; c++)
                sum += (double)x.at[i - i % n_cols + c] * x.at[i - i % n_cols + c];
            truth[i] = x.at[i] / sqrt(sum / (double)n_cols + 1e-6f) * weight.at[i % n_cols];
        }
        struct values *to = in_place ? &x : &out;
        table->rmsnorm(x.at, weight.at, to->at, n_rows, n_cols, 1e-6f);
        for (size_t i = 0; i < n_rows * n_cols; i++)
            check_near(variant, "rmsnorm", n_cols, i, to->at[i], truth[i],
                       ((double)n_cols / 8 + 8) * u * fabs(truth[i]));
        check_canaries(&x);
        check_canaries(&out);
    }
}

static void check_rope(const struct kernel_table *table, const char *variant, struct rng *rng)
{
    static struct values x, angles;
    static const uint32_t rots[] = {0, 2, 6, 8, 16, 18, 30, 32, 48, 64, 96, 128, 200};
    for (int32_t pairing = FATHOM_ROPE_NONE; pairing <= FATHOM_ROPE_HALVES; pairing++)
        for (size_t r = 0; r < sizeof rots / sizeof rots[0]; r++) {
            uint32_t n_rot = rots[r], d = n_rot + rng_below(rng, 20), n_heads = 3;
            double truth[COUNT_MAX], size[COUNT_MAX] = {0};
            fill_values(&x, rng, n_heads * d, 1);
            fill_values(&angles, rng, n_rot, 1);
            for (uint32_t i = 0; i < n_heads * d; i++)
                truth[i] = x.at[i];
            for (uint32_t i = 0; i < n_rot / 2 * n_heads && pairing != FATHOM_ROPE_NONE; i++) {
                uint32_t pair = i % (n_rot / 2), head = i / (n_rot / 2) * d;
                bool adjacent = pairing == FATHOM_ROPE_ADJACENT;
                uint32_t a = head + (adjacent ? 2 * pair : pair);
                uint32_t b = adjacent ? a + 1 : a + n_rot / 2;
                double c = angles.at[2 * pair], s = angles.at[2 * pair + 1];
                truth[a] = x.at[a] * c - x.at[b] * s;
                truth[b] = x.at[a] * s + x.at[b] * c;
                size[a] = fabs(x.at[a] * c) + fabs(x.at[b] * s);
                size[b] = fabs(x.at[a] * s) + fabs(x.at[b] * c);
            }
            table->rope(x.at, angles.at, n_heads, d, n_rot, pairing);
            for (uint32_t i = 0; i < n_heads * d; i++)
                check_near(variant, "rope", n_rot, i, x.at[i], truth[i], 3 * u * size[i]);
            check_canaries(&x);
        }
}

// Whatever is in the row; size[i]: how far x[i] lies below the maximum.
static void check_softmax_row(const struct kernel_table *table, const char *variant,
                              struct values *x)
{
    double max = -INFINITY, sum = 0, truth[COUNT_MAX], bound[COUNT_MAX], error = 0;
    for (size_t i = 0; i < x->n; i++)
        max = fmax(max, x->at[i]);
    for (size_t i = 0; i < x->n; i++)
        sum += exp(x->at[i] - max);
    for (size_t i = 0; i < x->n; i++) {
        truth[i] = max == -INFINITY ? 0 : exp(x->at[i] - max) / sum;
        bound[i] = truth[i] > 0 ? truth[i] * (2 * u + u * (max - x->at[i])) : 0;
        error += bound[i];
    }
    table->softmax(x->at, 1, x->n);
    for (size_t i = 0; i < x->n; i++)
        check_near(variant, "softmax", x->n, i, x->at[i], truth[i],
                   1.1 * (bound[i] + truth[i] * (error + ((double)x->n / 8 + 8) * u)) + 0x1p-148);
    check_canaries(x);
}

static void check_softmax(const struct kernel_table *table, const char *variant, struct rng *rng)
{
    static struct values x;
    for (int round = 0; round < 8 * COUNTS; round++) {
        size_t n = counts[round % COUNTS];
        fill_values(&x, rng, n, (const float[]){1, 10, 100, 1e30f}[round / COUNTS % 4]);
        if (round >= 4 * COUNTS && n > 0) x.at[rng_below(rng, (uint32_t)n)] = -INFINITY;
        check_softmax_row(table, variant, &x);
    }
    // The exponential over all its range, next to a value of 0.
    fill_values(&x, rng, COUNT_MAX, 1);
    for (size_t i = 0; i < COUNT_MAX; i++)
        x.at[i] = -0.11f * (float)i;
    check_softmax_row(table, variant, &x);
    for (size_t n = 1; n <= 33; n += 4)
        for (int trait = 0; trait < 3; trait++) {
            fill_values(&x, rng, 3 * n, 1);
            for (size_t i = n; i < 2 * n; i++)
                if (trait == 0) x.at[i] = -INFINITY;
            if (trait > 0) x.at[2 * n - 1] = trait == 1 ? NAN : INFINITY;
            table->softmax(x.at, 3, n);
            for (size_t i = 0; i < 3 * n; i++) {
                bool odd = i >= n && i < 2 * n;
                assert_true(isnan(x.at[i]) == (odd && trait > 0));
                if (odd && trait == 0) assert_true(x.at[i] == 0);
            }
        }
}

static void check_swiglu(const struct kernel_table *table, const char *variant, struct rng *rng)
{
    static struct values gate, up, out;
    for (int round = 0; round < 12 * COUNTS; round++) {
        size_t n = counts[round % COUNTS];
        fill_values(&gate, rng, n, (const float[]){1, 8, 60, 1e4f}[round / COUNTS % 4]);
        fill_values(&up, rng, n, 1);
        fill_values(&out, rng, n, 1);
        if (n > 8 && round >= COUNTS && round < 2 * COUNTS) {
            const float specials[] = {0, -0.0f, INFINITY, -INFINITY, NAN, -88.8f, 88.8f, -104};
            memcpy(gate.at, specials, sizeof specials);
            if (n > 9) up.at[9] = NAN;
        }
        double truth[COUNT_MAX], size[COUNT_MAX];
        for (size_t i = 0; i < n; i++) {
            truth[i] = gate.at[i] / (1 + exp(-(double)gate.at[i])) * up.at[i];
            size[i] = fabs((double)gate.at[i] * up.at[i]);
        }
        struct values *to = (struct values *[]){&out, &gate, &up}[round / COUNTS % 3];
        table->swiglu(gate.at, up.at, to->at, n);
        for (size_t i = 0; i < n; i++)
            check_near(variant, "swiglu", n, i, to->at[i], truth[i],
                       8 * u * fabs(truth[i]) + 0x1p-148 * (1 + size[i]));
        check_canaries(to);
    }
}

static void check_add(const struct kernel_table *table, const char *variant, struct rng *rng)
{
    static struct values x, y;
    for (int round = 0; round < COUNTS; round++) {
        float want[COUNT_MAX];
        fill_values(&x, rng, counts[round], 1);
        fill_values(&y, rng, counts[round], 1);
        for (size_t i = 0; i < x.n; i++)
            want[i] = x.at[i] + y.at[i];
        table->add(x.at, y.at, x.n);
        for (size_t i = 0; i < x.n; i++)
            check_near(variant, "add", x.n, i, x.at[i], want[i], 0);
        check_canaries(&x);
    }
}

static void test_convert(void **state)
{
    (void)state, each_variant(check_convert);
}
static void test_rmsnorm(void **state)
{
    (void)state, each_variant(check_rmsnorm);
}
static void test_rope(void **state)
{
    (void)state, each_variant(check_rope);
}
static void test_softmax(void **state)
{
    (void)state, each_variant(check_softmax);
}
static void test_swiglu(void **state)
{
    (void)state, each_variant(check_swiglu);
}
static void test_add(void **state)
{
    (void)state, each_variant(check_add);
}

// ---- Speed
// ---------------------------------------------------------------------------------------

enum { BENCH_KERNELS = 8, BENCH_STEPS = 400, BENCH_COUNT = 4096 };
static const char *const bench_names[BENCH_KERNELS] = {
    "convert f16", "convert bf16", "rmsnorm", "rope adjacent",
    "rope halves", "softmax",      "swiglu",  "add",
};

struct vector_job {
    const struct kernel_table *table;
    int kernel;
    float *x, *y, *out; // [BENCH_COUNT]
};

static void run_steps(void *arg, uint32_t thread, uint32_t n_threads)
{
    const struct vector_job *job = arg;
    const struct kernel_table *table = job->table;
    (void)thread, (void)n_threads;
    for (int step = 0; step < BENCH_STEPS; step++)
        switch (job->kernel) {
        case 0:
            table->convert(FATHOM_TYPE_F16, job->x, job->out, BENCH_COUNT);
            break;
        case 1:
            table->convert(FATHOM_TYPE_BF16, job->x, job->out, BENCH_COUNT);
            break;
        case 2:
            table->rmsnorm(job->x, job->y, job->out, 1, BENCH_COUNT, 1e-6f);
            break;
        case 3:
            table->rope(job->out, job->y, 32, 128, 128, FATHOM_ROPE_ADJACENT);
            break;
        case 4:
            table->rope(job->out, job->y, 32, 128, 128, FATHOM_ROPE_HALVES);
            break;
        case 5:
            table->softmax(job->out, 1, BENCH_COUNT);
            break;
        case 6:
            table->swiglu(job->x, job->y, job->out, BENCH_COUNT);
            break;
        default:
            table->add(job->out, job->y, BENCH_COUNT);
            break;
        }
}

// Rows as a decode step has them: 4096 values, in the caches, one thread.
static int bench(void)
{
    static float x[BENCH_COUNT], y[BENCH_COUNT], out[BENCH_COUNT];
    const struct pool_params params = {.n_threads = 1};
    struct pool *pool = NULL;
    if (pool_open(&params, &pool) < 0) return 1;
    for (int variant = 0; variant < K_VARIANTS; variant++) {
        struct kernel_table table;
        if (!variant_init(variant, &table)) continue;
        for (int kernel = 0; kernel < BENCH_KERNELS; kernel++) {
            struct vector_job job = {&table, kernel, x, y, out};
            for (int i = 0; i < BENCH_COUNT; i++) // pairs on the unit circle, for rope
                x[i] = out[i] = (float)(i % 7) - 3, y[i] = i % 2 ? 0.8f : 0.6f;
            double ns = bench_ns(pool, run_steps, &job) / BENCH_STEPS;
            printf("%-7s %-14s %d values %9.1f ns %6.2f values/ns\n", k_variants[variant].name,
                   bench_names[kernel], BENCH_COUNT, ns, BENCH_COUNT / ns);
        }
    }
    pool_close(&pool);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return bench();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_convert), cmocka_unit_test(test_rmsnorm), cmocka_unit_test(test_rope),
        cmocka_unit_test(test_softmax), cmocka_unit_test(test_swiglu),  cmocka_unit_test(test_add),
    };
    return check_run("k_vector", tests, sizeof tests / sizeof tests[0]);
}
