// 16-bit floats in plain integer arithmetic: right on any machine, whatever its rounding mode or
// flags. Kernels convert rows with the machine's instructions; these are for single values and are
// what the kernels are checked against.
//
//     binary32: 1 sign, 8 exponent (bias 127), 23 mantissa bits
//     binary16: 1 sign, 5 exponent (bias 15), 10 mantissa bits
//     bfloat16: the upper half of a binary32

#include "src/base/half.h"

#include <string.h>

static uint32_t get_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// bits / 2^shift, to nearest, ties to even; 1 <= shift <= 24.
static uint32_t shift_round(uint32_t bits, uint32_t shift)
{
    uint32_t odd = bits >> shift & 1;
    return (bits + (1u << (shift - 1)) - 1 + odd) >> shift;
}

float half_to_float(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t exponent = half >> 10 & 0x1f;
    uint32_t mantissa = half & 0x3ff;
    if (exponent == 0) return from_bits(sign | get_bits((float)mantissa * 0x1p-24f));
    if (exponent == 0x1f) {
        uint32_t quiet = mantissa != 0 ? 1u << 22 : 0;
        return from_bits(sign | 0x7f800000 | quiet | mantissa << 13);
    }
    return from_bits(sign | (exponent + 127 - 15) << 23 | mantissa << 13);
}

uint16_t half_from_float(float value)
{
    uint32_t bits = get_bits(value);
    uint32_t sign = bits >> 16 & 0x8000;
    uint32_t magnitude = bits & 0x7fffffff;
    uint32_t exponent = magnitude >> 23;
    if (magnitude > 0x7f800000) // NaN: quiet, with the upper payload
        return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x1ff));
    if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00); // 65520 and up: infinity
    if (exponent >= 127 - 14) // rebias; a carry out of the mantissa is the next exponent
        return (uint16_t)(sign | shift_round(magnitude - ((127 - 15) << 23), 13));
    if (exponent < 127 - 25) return (uint16_t)sign; // below 2^-25, half of the least subnormal
    // Subnormal: the mantissa in units of 2^-24.
    uint32_t mantissa = (magnitude & 0x7fffff) | 0x800000;
    return (uint16_t)(sign | shift_round(mantissa, 127 - 1 - exponent));
}

float bf16_to_float(uint16_t bf16)
{
    return from_bits((uint32_t)bf16 << 16);
}

uint16_t bf16_from_float(float value)
{
    uint32_t bits = get_bits(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40); // NaN: quiet
    return (uint16_t)shift_round(bits, 16);
}
