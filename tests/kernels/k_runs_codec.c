// The codes of K and V rows: layout, round trips, the same bits from all variants.

#include "tests/kernels/k_runs.h"

#include "tests/check.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "cpu/cpu_kernels.h"

enum { SEED = 23, D_MAX = 256, N_ROWS = 19, ROW_BYTES = 16 + D_MAX };

static const uint32_t code_bits[] = {8, 4, 2};
static const uint32_t dims[] = {1,  8,  15, 16, 17,  31,  32,  33, 63,
                                64, 65, 80, 96, 128, 129, 200, 256};

// A case: values and what one variant made of them. Rows lie without alignment; bytes behind them
// are poisoned.
struct codec_case {
    uint32_t bits, d;
    float x[N_ROWS * D_MAX];
    float k_min[D_MAX + 1], k_step[D_MAX + 1];
    char k[N_ROWS][ROW_BYTES + 8], v[N_ROWS][ROW_BYTES + 8];
    float k_back[N_ROWS][D_MAX + 1], v_back[N_ROWS][D_MAX + 1];
};

static const float canary = 12345.5f;

static void run_case(struct codec_case *c, const struct kernel_table *table)
{
    const struct kv_format f = {.bits = c->bits, .d_k = c->d, .d_v = c->d};
    const size_t k_bytes = kv_k_row_bytes(&f), v_bytes = kv_v_row_bytes(&f);
    memset(c->k, 0x5a, sizeof c->k);
    memset(c->v, 0x5a, sizeof c->v);
    c->k_min[c->d] = c->k_step[c->d] = canary;
    table->kv.k_range(c->bits, c->x, N_ROWS, c->d, c->k_min, c->k_step);
    assert_true(c->k_min[c->d] == canary && c->k_step[c->d] == canary);
    for (uint32_t j = 0; j < N_ROWS; j++) {
        const float *x = c->x + j * c->d;
        c->k_back[j][c->d] = c->v_back[j][c->d] = canary;
        table->kv.k_encode(c->bits, x, c->k_min, c->k_step, c->d, c->k[j] + 1);
        table->kv.v_encode(c->bits, x, c->d, c->v[j] + 1);
        table->kv.k_decode(c->bits, c->k[j] + 1, c->k_min, c->k_step, c->d, c->k_back[j]);
        table->kv.v_decode(c->bits, c->v[j] + 1, c->d, c->v_back[j]);
        assert_true(c->k[j][0] == 0x5a && c->k[j][1 + k_bytes] == 0x5a);
        assert_true(c->v[j][0] == 0x5a && c->v[j][1 + v_bytes] == 0x5a);
        assert_true(c->k_back[j][c->d] == canary && c->v_back[j][c->d] == canary);
    }
}

// Each variant makes the same of a case as the reference, bit by bit.
static void compare_variants(const struct codec_case *ref)
{
    static struct codec_case c;
    struct kernel_table table;
    for (int variant = 1; variant < RUNS_VARIANTS; variant++) {
        if (!runs_variant(variant, &table)) continue;
        c = *ref;
        run_case(&c, &table);
        assert_memory_equal(c.k_min, ref->k_min, ref->d * sizeof(float));
        assert_memory_equal(c.k_step, ref->k_step, ref->d * sizeof(float));
        assert_memory_equal(c.k, ref->k, sizeof c.k);
        assert_memory_equal(c.v, ref->v, sizeof c.v);
        for (uint32_t j = 0; j < N_ROWS; j++) {
            assert_memory_equal(c.k_back[j], ref->k_back[j], ref->d * sizeof(float));
            assert_memory_equal(c.v_back[j], ref->v_back[j], ref->d * sizeof(float));
        }
    }
}

// Every value within half a step: of the code's, plus the roundings of x - min, of the quotient,
// and of the decoded value.
static void check_half_step(const struct codec_case *c)
{
    const double u = 0x1p-24, top = (1u << c->bits) - 1;
    const char *codes_behind = NULL;
    for (uint32_t j = 0; j < N_ROWS; j++) {
        codes_behind = c->v[j] + 1 + (c->d + 63) / 64 * 4;
        for (uint32_t i = 0; i < c->d; i++) {
            double x = c->x[j * c->d + i], step = c->k_step[i], min = c->k_min[i];
            double k = min + step * runs_code(c->bits, c->k[j] + 1, i);
            assert_true(fabs(k - x) <= step * (0.5 + 3 * u * top) + 0x1p-149);
            assert_true(fabs(c->k_back[j][i] - k) <= u * fabs(k) + 0x1p-149);
            runs_v_scale(c->v[j] + 1, i / 64, &step, &min);
            double v = min + step * runs_code(c->bits, codes_behind, i);
            assert_true(fabs(v - x) <= step * (0.5 + 3 * u * top));
            assert_true(c->v_back[j][i] == (float)v); // so few digits that they are exact in double
        }
        // Channels past d are code 0.
        for (uint32_t i = c->d; i % (128 / c->bits) != 0; i++) {
            assert_int_equal(runs_code(c->bits, c->k[j] + 1, i), 0);
            assert_int_equal(runs_code(c->bits, codes_behind, i), 0);
        }
    }
}

static void check_case(struct codec_case *c)
{
    struct kernel_table ref;
    cpu_kernels_init(&ref, 0);
    run_case(c, &ref);
    compare_variants(c);
}

void test_code_round_trip(void **state)
{
    static struct codec_case c;
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED);
    for (uint32_t b = 0; b < COUNT(code_bits); b++)
        for (uint32_t n = 0; n < 4 * COUNT(dims); n++) {
            c.bits = code_bits[b];
            c.d = dims[n / 4];
            // Around 0; far from 0; tiny; large.
            float mean = (const float[]){0, 100, 0, -3000}[n % 4];
            float size = (const float[]){1, 0.125f, 0x1p-20f, 9000}[n % 4];
            for (uint32_t i = 0; i < N_ROWS * c.d; i++)
                c.x[i] = mean + size * rng_normal(&rng);
            check_case(&c);
            check_half_step(&c);
        }
}

// Values that have codes come back as they were: whole numbers times a power of two.
void test_code_exact(void **state)
{
    static struct codec_case c;
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED + 1);
    for (uint32_t b = 0; b < COUNT(code_bits); b++)
        for (uint32_t n = 0; n < COUNT(dims); n++) {
            c.bits = code_bits[b];
            c.d = dims[n];
            const uint32_t top = (1u << c.bits) - 1;
            for (uint32_t i = 0; i < N_ROWS * c.d; i++) {
                uint32_t row = i / c.d, at = i % c.d % 64, code = rng_below(&rng, top + 1);
                // The ends of the range in each channel and, where a group is long enough, in each
                // group of each row.
                if (row < 2) code = row * top;
                if (at < 2 && i % c.d + 1 < c.d) code = (row + at) % 2 * top;
                if (at == 1) code = top - (row % 2) * top;
                if (at == 0) code = (row % 2) * top;
                c.x[i] = -1.5f + 0.25f * (float)code;
            }
            check_case(&c);
            for (uint32_t i = 0; i < N_ROWS * c.d; i++) {
                assert_true(c.k_back[i / c.d][i % c.d] == c.x[i]);
                bool alone = i % c.d % 64 == 0 && i % c.d + 1 == c.d; // a group of one value
                assert_true(alone || c.v_back[i / c.d][i % c.d] == c.x[i]);
            }
        }
}

void test_code_layout(void **state)
{
    static struct codec_case c;
    struct kernel_table table;
    (void)state;
    for (int variant = 0; variant < RUNS_VARIANTS; variant++) {
        if (!runs_variant(variant, &table)) continue;
        // Codes of 4 bits, 66 channels: two pieces and two channels of a third.
        for (uint32_t j = 0; j < N_ROWS; j++)
            for (uint32_t i = 0; i < 66; i++)
                c.x[j * 66 + i] = j == 0 ? 0 : j == 1 ? 15 : (float)(i % 16);
        c.x[2 * 66 + 63] = 15;
        c.x[2 * 66 + 64] = 2;
        c.bits = 4;
        c.d = 66;
        run_case(&c, &table);
        const uint8_t *k = (const uint8_t *)c.k[2] + 1, *v = (const uint8_t *)c.v[2] + 1;
        for (uint32_t i = 0; i < 16; i++) {
            assert_int_equal(k[i], i | i << 4);
            assert_int_equal(k[16 + i], i | i << 4);
            assert_int_equal(v[8 + i], i | i << 4);
            assert_int_equal(k[32 + i], i == 0 ? 2 : i == 1 ? 1 : 0);
        }
        // V's group of 64: step 1, min 0; of two values 2 and 1: step 1 / 15 rounded up, min 1.
        const uint8_t head[8] = {0x00, 0x3c, 0, 0, 0x45, 0x2c, 0x00, 0x3c};
        assert_memory_equal(v, head, sizeof head);
        assert_int_equal(v[8 + 32], 15);
        assert_int_equal(v[8 + 33], 0);
    }
}

// Equal values, values that f16 cannot hold, zeros of either sign, numbers too small for a step.
void test_code_edges(void **state)
{
    static struct codec_case c;
    struct rng rng;
    (void)state;
    rng_init(&rng, SEED + 2);
    for (uint32_t b = 0; b < COUNT(code_bits); b++)
        for (uint32_t n = 0; n < 6; n++) {
            c.bits = code_bits[b];
            c.d = 80;
            for (uint32_t i = 0; i < N_ROWS * 80; i++) {
                float sign = rng_below(&rng, 2) ? 1.0f : -1.0f;
                const float values[] = {0.1f,  sign * 1e6f, sign * 0.0f, sign * FLT_TRUE_MIN,
                                        70000, 65519};
                c.x[i] = values[n];
            }
            check_case(&c);
            if (n == 0) check_half_step(&c);
            for (uint32_t i = 0; i < 80; i++) {
                if (n == 0 || n == 4 || n == 5)
                    assert_true(c.k_step[i] == 0 && c.k_back[0][i] == c.x[i]);
                if (n == 1) assert_true(fabsf(c.v_back[0][i] - copysignf(65504, c.x[i])) <= 300);
                if (n == 2) assert_true(c.k_back[0][i] == 0 && c.v_back[0][i] == 0);
                if (n == 4) assert_true(c.v_back[0][i] == 65504);
            }
        }
}
