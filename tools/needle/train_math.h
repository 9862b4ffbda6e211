// Numbers as the training kernels take them: floats, or the bf16 "elements" of matrix products.
//
// With -DNARROW=1 operands and results of matrix products are bf16, with 0 they are float.

#ifndef FATHOM_TOOLS_NEEDLE_TRAIN_MATH_H
#define FATHOM_TOOLS_NEEDLE_TRAIN_MATH_H

#include <math.h>
#include <stdint.h>

static inline float widen(uint16_t bits)
{
    union {
        uint32_t u;
        float f;
    } x = {(uint32_t)bits << 16};
    return x.f;
}

static inline uint16_t narrow(float value)
{
    union {
        float f;
        uint32_t u;
    } x = {value};
    return (uint16_t)((x.u + 0x7fff + (x.u >> 16 & 1)) >> 16);
}

static inline float get(const void *elements, long i)
{
    return NARROW ? widen(((const uint16_t *)elements)[i]) : ((const float *)elements)[i];
}

static inline void put(void *elements, long i, float value)
{
    if (NARROW)
        ((uint16_t *)elements)[i] = narrow(value);
    else
        ((float *)elements)[i] = value;
}

// e^-60 is nothing beside 1, and no denormal comes of it.
#define EXP_LEAST (-60.0f)
#define EXP_MOST  80.0f

// e^x with a relative error below 1e-5; x is held between the two bounds.
static inline float exp_fast(float x)
{
    x = x > EXP_LEAST ? x : EXP_LEAST;
    x = x < EXP_MOST ? x : EXP_MOST;
    float n = rintf(x * 1.44269504f);
    float f = x - n * 0.69314718f;
    float p = 8.3334519e-3f;
    p = p * f + 4.1665795e-2f;
    p = p * f + 1.6666665e-1f;
    p = p * f + 0.5f;
    p = p * f * f + f + 1.0f;
    union {
        int32_t i;
        float f;
    } power = {((int32_t)n + 127) << 23};
    return p * power.f;
}

#endif
