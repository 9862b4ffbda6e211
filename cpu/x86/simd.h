// One set of names for vectors of floats, so that attention and the vector kernels are written once
// and compiled for each instruction set: the flags of the file that includes this choose the width.
//
// vec                          VEC_LANES floats in a register
// vec_load, vec_store          any alignment; _n: the first n values only, further lanes are zero;
//                              n may be above VEC_LANES and then counts as VEC_LANES
// vec_hold(a)                  a, in a register: compilers else load it anew for each use
// vec_load_type[_n]            from F32, F16 or BF16; exact
// vec_store_half_n             to F16 or BF16, nearest even, NaN stays NaN
// vec_max, vec_min (a, b)      b if either is NaN
// vec_fma(a, b, c)             a * b + c, rounded once
// vec_keep(a, x, begin, end, b)   a where begin <= x < end, else b
// vec_any_above(a, b)          whether a > b in some lane
// vec_at_least(a, b)           bit i: whether a[i] >= b[i]
// vec_put_places(at, bits, i)  at[0 ..] = i + each set bit's number, ascending; returns how many
// vec_above(a, b, yes, no)     yes where a > b, else no
// vec_swap(a, n)               lane i and i ^ n change places; n = 1, 2, 4, 8 below VEC_LANES
// vec_repeat(p, n)             lane i: p[i % n]; n = 1, 2, 4, 8
// vec_sums(a)                  lane i: the sum over the lanes of a[i]. The order of summation is
//                              the same for all i
// vec_scale2(a, n)             a * 2^n, n whole, -150 .. 129, a in 0.5 .. 2
// vec_even, vec_odd (a, b)     every other lane of a and b one after another
// vec_turn_pairs(x, cos_sin)   lanes 2i, 2i + 1 turned by (cos, sin) in the same lanes of cos_sin
// vec_sum_apart, vec_max_apart, vec_hsum, vec_hmax, vec_exp   below

#ifndef FATHOM_CPU_X86_SIMD_H
#define FATHOM_CPU_X86_SIMD_H

#ifdef __AVX512F__
#    include "cpu/x86/simd_avx512.h"
#else
#    include "cpu/x86/simd_avx2.h"
#endif

// Each lane: the sum over the lanes that lie whole multiples of n away, n a power of two.
SIMD_INLINE vec vec_sum_apart(vec a, int n)
{
#pragma GCC unroll 4
    for (int distance = VEC_LANES / 2; distance >= n; distance /= 2)
        a = vec_add(a, vec_swap(a, distance));
    return a;
}

// Likewise the maximum; the caller has no NaN in it.
SIMD_INLINE vec vec_max_apart(vec a, int n)
{
#pragma GCC unroll 4
    for (int distance = VEC_LANES / 2; distance >= n; distance /= 2)
        a = vec_max(a, vec_swap(a, distance));
    return a;
}

// Over all lanes.
SIMD_INLINE float vec_hsum(vec a)
{
    return vec_first(vec_sum_apart(a, 1));
}
SIMD_INLINE float vec_hmax(vec a)
{
    return vec_first(vec_max_apart(a, 1));
}

// e^x, relative error below 2^-23 where the result is a normal number, half a step of the subnormal
// numbers below; -infinity gives 0, infinity and NaN stay.
//
// x = n ln 2 + r with |r| <= ln 2 / 2, e^r = 1 + r + r^2 p(r). p is the minimax polynomial of
// degree 4 for the relative error of e^r (Remez; 2^-28 with these rounded coefficients). ln 2 is
// split so that n times its upper part is exact. Beyond the clamps the result rounds to 0 or
// infinity; they keep NaN, because the second operand of min and max wins.
SIMD_INLINE vec vec_exp(vec x)
{
    x = vec_min(vec_set1(89.0f), vec_max(vec_set1(-104.0f), x));
    vec n = vec_round(vec_mul(x, vec_set1(0x1.715476p+0f)));
    vec r = vec_fma(n, vec_set1(-0x1.62e4p-1f), x);
    r = vec_fma(n, vec_set1(-0x1.7f7d1cp-20f), r);
    vec p = vec_set1(0x1.6a23d0p-10f);
    p = vec_fma(p, r, vec_set1(0x1.123a20p-7f));
    p = vec_fma(p, r, vec_set1(0x1.5558f2p-5f));
    p = vec_fma(p, r, vec_set1(0x1.555492p-3f));
    p = vec_fma(p, r, vec_set1(0x1.fffffcp-2f));
    p = vec_add(vec_fma(vec_mul(r, r), p, r), vec_set1(1.0f));
    return vec_scale2(p, n);
}

#endif
