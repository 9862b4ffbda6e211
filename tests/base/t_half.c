// 16-bit floats: every code, and every boundary between two codes, against values computed in
// double from the definition of the format.

#include "tests/check.h"

#include "src/base/half.h"
#include "src/base/rng.h"

#include <math.h>
#include <string.h>

struct format {
    const char *name;
    int n_mantissa; // bits
    int bias;
    uint16_t infinity; // its code; larger ones, without the sign, are NaN
    float (*to_float)(uint16_t code);
    uint16_t (*from_float)(float value);
};

static const struct format formats[] = {
    {"f16", 10, 15, 0x7c00, half_to_float, half_from_float},
    {"bf16", 7, 127, 0x7f80, bf16_to_float, bf16_from_float},
};

// Value of a code without sign. Infinity's code stands for the power of two that would follow the
// largest number, which is what rounding has to compare with.
static double compute_value(const struct format *format, uint32_t code)
{
    int exponent = (int)(code >> format->n_mantissa);
    double mantissa = code & ((1u << format->n_mantissa) - 1);
    if (exponent == 0) return ldexp(mantissa, 1 - format->bias - format->n_mantissa);
    return ldexp(mantissa + ldexp(1, format->n_mantissa),
                 exponent - format->bias - format->n_mantissa);
}

static void check_code(const struct format *format, uint16_t code)
{
    float value = format->to_float(code);
    uint16_t magnitude = code & 0x7fff;
    bool negative = code >> 15;
    assert_int_equal(signbit(value) != 0, negative);
    if (magnitude > format->infinity) {
        assert_true(isnan(value));
        uint16_t back = format->from_float(value);
        assert_true((back & 0x7fff) > format->infinity);
        assert_true(back >> (format->n_mantissa - 1) & 1); // quiet
        assert_int_equal(back >> 15, negative);
        return;
    }
    if (magnitude == format->infinity)
        assert_true(isinf(value));
    else
        assert_true(fabs((double)value) == compute_value(format, magnitude));
    assert_int_equal(format->from_float(value), code);
}

static void test_codes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        for (uint32_t code = 0; code < 65536; code++)
            check_code(&formats[i], (uint16_t)code);
}

// The midpoint of two neighbours goes to the even code; one float below and above it do not.
static void test_midpoints(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        const struct format *format = &formats[i];
        for (uint16_t code = 0; code < format->infinity; code++) {
            uint16_t next = code + 1;
            double middle = (compute_value(format, code) + compute_value(format, next)) / 2;
            float exact = (float)middle;
            assert_true((double)exact == middle);
            uint16_t even = code % 2 == 0 ? code : next;
            assert_int_equal(format->from_float(exact), even);
            assert_int_equal(format->from_float(-exact), even | 0x8000);
            assert_int_equal(format->from_float(nextafterf(exact, 0)), code);
            assert_int_equal(format->from_float(nextafterf(exact, INFINITY)), next);
            assert_int_equal(format->from_float(nextafterf(-exact, -INFINITY)), next | 0x8000);
        }
        assert_int_equal(format->from_float(INFINITY), format->infinity);
        assert_int_equal(format->from_float(3.4028235e38f), format->infinity);
    }
}

// Code of the value nearest to |value|, by bisection over the codes.
static uint16_t find_nearest(const struct format *format, double value)
{
    uint32_t low = 0;
    uint32_t high = format->infinity;
    if (value >= compute_value(format, high)) return format->infinity;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (compute_value(format, middle) <= value)
            low = middle;
        else
            high = middle;
    }
    double below = value - compute_value(format, low);
    double above = compute_value(format, high) - value;
    if (below == above) return (uint16_t)(low % 2 == 0 ? low : high);
    return (uint16_t)(below < above ? low : high);
}

// Random bit patterns: any float at all.
static void test_random_floats(void **state)
{
    struct rng rng;
    (void)state;
    printf("seed 11\n");
    rng_init(&rng, 11);
    for (int n = 0; n < 200000; n++) {
        uint32_t bits = (uint32_t)rng_u64(&rng);
        float value;
        memcpy(&value, &bits, sizeof value);
        for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
            const struct format *format = &formats[i];
            uint16_t code = format->from_float(value);
            assert_int_equal(code >> 15, bits >> 31);
            if (isnan(value))
                assert_true((code & 0x7fff) > format->infinity);
            else
                assert_int_equal(code & 0x7fff, find_nearest(format, fabs((double)value)));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codes),
        cmocka_unit_test(test_midpoints),
        cmocka_unit_test(test_random_floats),
    };
    return check_run("t_half", tests, sizeof tests / sizeof tests[0]);
}
