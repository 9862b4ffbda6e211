// Rotary frequencies against the formulas of the papers, written out once more by hand.

#include "tests/check.h"

#include <math.h>

#include "src/kv/rope.h"

static struct fathom_rope plain(uint32_t n_rot, float base)
{
    struct fathom_rope rope = {
        .pairing = FATHOM_ROPE_ADJACENT,
        .n_rot = n_rot,
        .base = base,
        .factor = 1.0f,
        .attn_factor = 1.0f,
        .ext_factor = 1.0f,
        .beta_fast = 32.0f,
        .beta_slow = 1.0f,
    };
    return rope;
}

static void check_close(double got, double want)
{
    if (!(fabs(got - want) <= 1e-9 * fabs(want))) fail_msg("%.12g, not %.12g", got, want);
}

static void test_plain_and_linear(void **state)
{
    (void)state;
    struct fathom_rope rope = plain(4, 10000.0f);
    double f[2];
    float magnitude;
    rope_frequencies(&rope, f, &magnitude);
    check_close(f[0], 1.0);
    check_close(f[1], 0.01);
    assert_true(magnitude == 1.0f);
    rope.scaling = FATHOM_ROPE_SCALING_LINEAR;
    rope.factor = 4.0f;
    rope_frequencies(&rope, f, &magnitude);
    check_close(f[0], 0.25);
    check_close(f[1], 0.0025);
    assert_true(magnitude == 1.0f);
}

static void test_divisors(void **state)
{
    (void)state;
    static const float divisors[] = {1.0f, 8.0f};
    struct fathom_rope rope = plain(4, 10000.0f);
    double f[2];
    float magnitude;
    rope.divisors = divisors;
    rope.scaling = FATHOM_ROPE_SCALING_LONGROPE;
    rope.attn_factor = 1.19f;
    rope_frequencies(&rope, f, &magnitude);
    check_close(f[0], 1.0);
    check_close(f[1], 0.01 / 8.0);
    assert_true(magnitude == 1.19f);
}

// Qwen's settings: base 10^6, 128 dimensions, 4 x 32768. YaRN, appendix A.2: pair i turns
// r(i) = L f_i / 2 pi times in the training context; at or above beta_fast turns it is left alone,
// at or below beta_slow turns it is interpolated.
static void test_yarn(void **state)
{
    (void)state;
    struct fathom_rope rope = plain(128, 1e6f);
    double f[64];
    float magnitude;
    rope.scaling = FATHOM_ROPE_SCALING_YARN;
    rope.factor = 4.0f;
    rope.n_orig_tokens = 32768;
    rope_frequencies(&rope, f, &magnitude);
    assert_true(fabsf(magnitude - 1.1386294f) < 1e-6f); // 1 + 0.1 ln 4
    uint32_t n_kept = 0, n_interpolated = 0;
    for (uint32_t i = 0; i < 64; i++) {
        const double own = pow(1e6, -(double)i / 64.0);
        const double turns = 32768.0 * own / (2.0 * 3.14159265358979);
        if (turns > 36.0) {
            check_close(f[i], own);
            n_kept++;
        } else if (turns < 0.9) {
            check_close(f[i], own / 4.0);
            n_interpolated++;
        } else {
            assert_true(f[i] <= own && f[i] >= own / 4.0);
        }
        if (i > 0) assert_true(f[i] < f[i - 1]);
    }
    assert_true(n_kept > 10 && n_interpolated > 10);
    // Pairs 23.6 (32 turns) and 39.7 (1 turn) round to 23 and 40; the ramp's middle is at 31.5.
    const double own = pow(1e6, -31.0 / 64.0);
    const double kept = 1.0 - 8.0 / 17.0;
    check_close(f[31], own * (kept + (1.0 - kept) / 4.0));
    rope.ext_factor = 0.0f;
    rope_frequencies(&rope, f, &magnitude);
    check_close(f[3], pow(1e6, -3.0 / 64.0) / 4.0);
    assert_true(magnitude == 1.0f);
}

static void test_table(void **state)
{
    (void)state;
    struct fathom_rope rope = plain(8, 1e10f);
    double f[4];
    float magnitude;
    float table[3][4][2];
    rope_frequencies(&rope, f, &magnitude);
    rope_table(f, 2.0f, 8, 1000000, 3, &table[0][0][0]);
    // In long double, whose angle at 10^6 is good to 10^-13.
    for (uint32_t t = 0; t < 3; t++)
        for (uint32_t i = 0; i < 4; i++) {
            const long double angle = (1000000.0L + t) * powl(1e10L, -2.0L * i / 8.0L);
            assert_true(fabs((double)(2.0L * cosl(angle)) - (double)table[t][i][0]) < 3e-7);
            assert_true(fabs((double)(2.0L * sinl(angle)) - (double)table[t][i][1]) < 3e-7);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_and_linear),
        cmocka_unit_test(test_divisors),
        cmocka_unit_test(test_yarn),
        cmocka_unit_test(test_table),
    };
    return check_run("rope", tests, sizeof tests / sizeof *tests);
}
