// Sums over short vectors, in lanes that the compiler can keep in registers: the order of summation
// is fixed, so results do not depend on the machine.

#ifndef FATHOM_INDEX_VECTORS_H
#define FATHOM_INDEX_VECTORS_H

#include <stdint.h>

enum { SUM_LANES = 16 };

static inline float sum_lanes(const float *sums)
{
    float sum = 0;
    for (uint32_t j = 0; j < SUM_LANES; j++)
        sum += sums[j];
    return sum;
}

static inline float vector_dot(const float *a, const float *b, uint32_t d)
{
    float sums[SUM_LANES] = {0};
    uint32_t i = 0;
    for (; i + SUM_LANES <= d; i += SUM_LANES)
        for (uint32_t j = 0; j < SUM_LANES; j++)
            sums[j] += a[i + j] * b[i + j];
    for (uint32_t j = 0; i + j < d; j++)
        sums[j] += a[i + j] * b[i + j];
    return sum_lanes(sums);
}

// Squared Euclidean distance.
static inline float vector_distance2(const float *a, const float *b, uint32_t d)
{
    float sums[SUM_LANES] = {0};
    uint32_t i = 0;
    for (; i + SUM_LANES <= d; i += SUM_LANES)
        for (uint32_t j = 0; j < SUM_LANES; j++)
            sums[j] += (a[i + j] - b[i + j]) * (a[i + j] - b[i + j]);
    for (uint32_t j = 0; i + j < d; j++)
        sums[j] += (a[i + j] - b[i + j]) * (a[i + j] - b[i + j]);
    return sum_lanes(sums);
}

// to += factor * x
static inline void vector_add(float *to, const float *x, float factor, uint32_t d)
{
    for (uint32_t i = 0; i < d; i++)
        to[i] += factor * x[i];
}

static inline void vector_scale(float *x, float factor, uint32_t d)
{
    for (uint32_t i = 0; i < d; i++)
        x[i] *= factor;
}

#endif
