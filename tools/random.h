// Seeded random numbers: xoshiro256** (Blackman and Vigna 2018), the same on every machine.

#ifndef FATHOM_TOOLS_RANDOM_H
#define FATHOM_TOOLS_RANDOM_H

#include <stdint.h>

struct random {
    uint64_t state[4];
};

void random_init(struct random *random, uint64_t seed);

// 0 .. n - 1; n >= 1.
uint32_t random_below(struct random *random, uint32_t n);

// In [0, 1).
double random_unit(struct random *random);

#endif
