// IEEE binary16, by scaling: the FPU does the rounding and the subnormals.

#include "tools/f16.h"

#include <string.h>

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static uint16_t narrow(float x)
{
    const uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000;
    const float size = float_of(bits & 0x7fffffff);
    if (size != size) return (uint16_t)(sign | 0x7e00);
    if (size >= 65520.0f) return (uint16_t)(sign | 0x7c00);
    if (size < 0x1p-14f) // the sum rounds to steps of 2^-24, which are its last bits
        return (uint16_t)(sign | (bits_of(size + 0.5f) - bits_of(0.5f)));
    const uint32_t whole = bits & 0x7fffffff;
    const uint32_t rounded = whole + 0xfff + (whole >> 13 & 1);
    return (uint16_t)(sign | (rounded - (112u << 23)) >> 13);
}

static float widen(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
    if (rest >= 0x7c00) return float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    const float size = float_of(rest << 13) * 0x1p112f;
    return float_of(sign | bits_of(size));
}

void f16_from_floats(uint16_t *out, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = narrow(x[i]);
}

void f16_to_floats(float *out, const uint16_t *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = widen(x[i]);
}
