// The generator: published vectors, then the shape of what is drawn. Seeds are fixed, so a bound
// that holds once holds always.

#include "tests/check.h"

#include "src/base/rng.h"

#include <math.h>
#include <string.h>

// First outputs of splitmix64 for this seed, which become the state.
static void test_seeding(void **state)
{
    static const uint64_t expected[4] = {6457827717110365317u, 3203168211198807973u,
                                         9817491932198370423u, 4593380528125082431u};
    struct rng rng;
    (void)state;
    rng_init(&rng, 1234567);
    assert_memory_equal(rng.state, expected, sizeof expected);
}

// xoshiro256++ from the state 1, 2, 3, 4.
static void test_vectors(void **state)
{
    static const uint64_t expected[] = {
        41943041u,
        58720359u,
        3588806011781223u,
        3591011842654386u,
        9228616714210784205u,
        9973669472204895162u,
        14011001112246962877u,
        12406186145184390807u,
        15849039046786891736u,
        10450023813501588000u,
    };
    struct rng rng = {{1, 2, 3, 4}};
    (void)state;
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++)
        assert_int_equal(rng_u64(&rng), expected[i]);
}

static void test_below(void **state)
{
    enum { N_CELLS = 7, N_DRAWS = 70000 };
    struct rng rng;
    size_t counts[N_CELLS] = {0};
    (void)state;
    rng_init(&rng, 1);
    for (int i = 0; i < N_DRAWS; i++) {
        uint32_t x = rng_below(&rng, N_CELLS);
        assert_true(x < N_CELLS);
        counts[x]++;
    }
    double chi_square = 0;
    for (int i = 0; i < N_CELLS; i++) {
        double excess = (double)counts[i] - N_DRAWS / N_CELLS;
        chi_square += excess * excess / (N_DRAWS / N_CELLS);
    }
    assert_true(chi_square < 22.5); // 6 degrees of freedom: one in a thousand

    // With n = 3 * 2^30, scaling without drawing again gives the multiples of 3 half of all draws,
    // and a remainder gives the lowest third half of them.
    size_t n_low = 0;
    size_t n_multiples = 0;
    for (int i = 0; i < 30000; i++) {
        uint32_t x = rng_below(&rng, 3u << 30);
        n_low += x < 1u << 30;
        n_multiples += x % 3 == 0;
    }
    assert_in_range(n_low, 9600, 10400);
    assert_in_range(n_multiples, 9600, 10400);
    for (int i = 0; i < 100; i++)
        assert_int_equal(rng_below(&rng, 1), 0);
    for (int i = 0; i < 100; i++)
        assert_true(rng_below(&rng, UINT32_MAX) < UINT32_MAX);
}

static void test_unit(void **state)
{
    enum { N_DRAWS = 100000 };
    struct rng rng;
    size_t counts[16] = {0};
    (void)state;
    rng_init(&rng, 2);
    for (int i = 0; i < N_DRAWS; i++) {
        double x = rng_unit(&rng);
        assert_true(x >= 0 && x < 1);
        assert_true(ldexp(x, 53) == floor(ldexp(x, 53)));
        counts[(size_t)(x * 16)]++;
    }
    for (int i = 0; i < 16; i++)
        assert_in_range(counts[i], N_DRAWS / 16 - 350, N_DRAWS / 16 + 350);
}

// The same method with libm's logarithm: equal up to the rounding of the last bit of a float.
static void test_normal_values(void **state)
{
    struct rng rng;
    struct rng twin;
    (void)state;
    rng_init(&rng, 3);
    rng_init(&twin, 3);
    for (int i = 0; i < 100000; i++) {
        double u;
        double square;
        do {
            u = 2 * rng_unit(&twin) - 1;
            double v = 2 * rng_unit(&twin) - 1;
            square = u * u + v * v;
        } while (square >= 1 || square == 0);
        double expected = u * sqrt(-2 * log(square) / square);
        float drawn = rng_normal(&rng);
        if (fabs((double)drawn - expected) > 0x1.01p-24 * fabs(expected))
            fail_msg("draw %d: %.9g, expected %.17g", i, (double)drawn, expected);
    }
}

static void test_normal_shape(void **state)
{
    enum { N_DRAWS = 200000 };
    static const double shares[3] = {0.682689, 0.954500, 0.997300}; // within 1, 2, 3 deviations
    struct rng rng;
    double sum = 0;
    double squares = 0;
    size_t counts[3] = {0};
    (void)state;
    rng_init(&rng, 4);
    for (int i = 0; i < N_DRAWS; i++) {
        double x = (double)rng_normal(&rng);
        sum += x;
        squares += x * x;
        for (int j = 0; j < 3; j++)
            counts[j] += fabs(x) < j + 1;
    }
    assert_true(fabs(sum / N_DRAWS) < 0.01);
    assert_true(fabs(squares / N_DRAWS - 1) < 0.015);
    for (int j = 0; j < 3; j++)
        assert_true(fabs((double)counts[j] / N_DRAWS - shares[j]) < 0.005);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_seeding),       cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_below),         cmocka_unit_test(test_unit),
        cmocka_unit_test(test_normal_values), cmocka_unit_test(test_normal_shape),
    };
    return check_run("t_rng", tests, sizeof tests / sizeof tests[0]);
}
