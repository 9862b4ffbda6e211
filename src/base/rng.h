// A small seeded generator (xoshiro256++ by Blackman and Vigna, seeded through splitmix64): the
// same numbers for the same seed on every machine. Not for cryptography.

#ifndef FATHOM_SRC_BASE_RNG_H
#define FATHOM_SRC_BASE_RNG_H

#include <stdint.h>

struct rng {
    uint64_t state[4];
};

void rng_init(struct rng *rng, uint64_t seed);
uint64_t rng_u64(struct rng *rng);
uint32_t rng_below(struct rng *rng, uint32_t n); // uniform in 0 .. n-1, without bias; n > 0
double rng_unit(struct rng *rng);                // uniform in [0, 1), 53 bits
float rng_normal(struct rng *rng);               // mean 0, variance 1

#endif
