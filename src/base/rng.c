// xoshiro256++ and splitmix64 (Blackman and Vigna, "Scrambled linear pseudorandom number
// generators", 2021), and what is drawn from them.
//
// Everything here is integer or IEEE arithmetic without libm's rounding, so that a seed gives the
// same numbers on every machine; hence the logarithm of its own.

#include "src/base/rng.h"

#include <assert.h>
#include <math.h>

static uint64_t rotate_left(uint64_t x, unsigned n_bits)
{
    return x << n_bits | x >> (64 - n_bits);
}

void rng_init(struct rng *rng, uint64_t seed)
{
    for (int i = 0; i < 4; i++) {
        seed += 0x9e3779b97f4a7c15;
        uint64_t z = seed;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
        z = (z ^ z >> 27) * 0x94d049bb133111eb;
        rng->state[i] = z ^ z >> 31;
    }
}

uint64_t rng_u64(struct rng *rng)
{
    uint64_t *s = rng->state;
    uint64_t result = rotate_left(s[0] + s[3], 23) + s[0];
    uint64_t shifted = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotate_left(s[3], 45);
    return result;
}

// Lemire, "Fast random integer generation in an interval", 2019: the upper half of a 32 x 32 bit
// product, drawn again when the lower half falls into the 2^32 mod n values that would be favoured.
uint32_t rng_below(struct rng *rng, uint32_t n)
{
    assert(n > 0);
    uint64_t product = (rng_u64(rng) >> 32) * n;
    if ((uint32_t)product < n) {
        uint32_t n_favoured = (uint32_t)(-(uint64_t)n & 0xffffffff) % n;
        while ((uint32_t)product < n_favoured)
            product = (rng_u64(rng) >> 32) * n;
    }
    return (uint32_t)(product >> 32);
}

double rng_unit(struct rng *rng)
{
    return (double)(rng_u64(rng) >> 11) * 0x1p-53;
}

// Natural logarithm of 0 < x <= 1 to about 1e-15: x = 2^e m with m near 1, and
// ln m = 2 atanh(t), t = (m - 1) / (m + 1), |t| <= 0.172, by its series.
static double log_unit(double x)
{
    int exponent;
    double m = frexp(x, &exponent);
    if (m < 0.70710678118654752) {
        m *= 2;
        exponent--;
    }
    double t = (m - 1) / (m + 1);
    double sum = 0;
    for (int i = 21; i >= 1; i -= 2)
        sum = sum * (t * t) + 1.0 / i;
    return exponent * 0.69314718055994531 + 2 * t * sum;
}

// Marsaglia's polar method; the second of its two numbers is not kept, so that the state is all
// there is to save.
float rng_normal(struct rng *rng)
{
    double u;
    double square;
    do {
        u = 2 * rng_unit(rng) - 1;
        double v = 2 * rng_unit(rng) - 1;
        square = u * u + v * v;
    } while (square >= 1 || square == 0);
    return (float)(u * sqrt(-2 * log_unit(square) / square));
}
