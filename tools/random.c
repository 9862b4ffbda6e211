// The generator of the command's test texts. The library's own is not among the public headers, and
// a text must not change when that one does.

#include "tools/random.h"

static uint64_t rotate(uint64_t x, unsigned n)
{
    return x << n | x >> (64 - n);
}

void random_init(struct random *random, uint64_t seed)
{
    // splitmix64 spreads the seed over the state.
    for (int i = 0; i < 4; i++) {
        seed += 0x9e3779b97f4a7c15;
        uint64_t x = seed;
        x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
        x = (x ^ x >> 27) * 0x94d049bb133111eb;
        random->state[i] = x ^ x >> 31;
    }
}

static uint64_t next(struct random *random)
{
    uint64_t *s = random->state;
    uint64_t result = rotate(s[1] * 5, 7) * 9;
    uint64_t shifted = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotate(s[3], 45);
    return result;
}

uint32_t random_below(struct random *random, uint32_t n)
{
    // Bias below n / 2^32.
    return (uint32_t)((next(random) >> 32) * n >> 32);
}

double random_unit(struct random *random)
{
    return (double)(next(random) >> 11) * 0x1p-53;
}
