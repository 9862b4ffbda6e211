// Of the dialect: loads, bits and the functions of the device. Where the device only approximates,
// this is nearer to the truth: bounds of tests must allow for the device. Included by emu_dialect.h
// only.

#ifndef FATHOM_TESTS_EMU_EMU_DIALECT_MATH_H
#define FATHOM_TESTS_EMU_EMU_DIALECT_MATH_H

#include <cmath>

#include "tests/emu/emu_dialect.h"

// Of a NaN and a number the device takes the number, which std::max and std::min do not.
template <class T>
T max(T a, T b)
{
    if constexpr (std::is_floating_point<T>::value)
        return std::fmax(a, b);
    else
        return a < b ? b : a;
}

template <class T>
T min(T a, T b)
{
    if constexpr (std::is_floating_point<T>::value)
        return std::fmin(a, b);
    else
        return b < a ? b : a;
}

template <class T>
T __ldg(const T *at)
{
    return *at;
}

template <class T>
T __ldcs(const T *at)
{
    return *at;
}

template <class T>
void __stcs(T *at, T value)
{
    *at = value;
}

inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}

inline int __clz(int x)
{
    return x != 0 ? __builtin_clz(static_cast<unsigned>(x)) : 32;
}

inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

// Four products of signed bytes.
inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 4; i++)
        c += static_cast<signed char>(a >> 8 * i) * static_cast<signed char>(b >> 8 * i);
    return c;
}

// Of unsigned ones.
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c)
{
    for (int i = 0; i < 4; i++)
        c += (a >> 8 * i & 0xff) * (b >> 8 * i & 0xff);
    return c;
}

#define EMU_SAME_BITS(name, to, from)                                                              \
    inline to name(from x)                                                                         \
    {                                                                                              \
        to bits;                                                                                   \
        static_assert(sizeof x == sizeof bits, "the same bits");                                   \
        memcpy(&bits, &x, sizeof bits);                                                            \
        return bits;                                                                               \
    }
EMU_SAME_BITS(__float_as_uint, unsigned, float)
EMU_SAME_BITS(__float_as_int, int, float)
EMU_SAME_BITS(__uint_as_float, float, unsigned)
EMU_SAME_BITS(__int_as_float, float, int)

inline float __expf(float x)
{
    return expf(x);
}

inline float __logf(float x)
{
    return logf(x);
}

inline float rsqrtf(float x)
{
    return 1 / sqrtf(x);
}

inline float __fdividef(float a, float b)
{
    return a / b;
}

#endif
