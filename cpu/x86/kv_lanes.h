// Packed codes of K and V rows in vectors, for each instruction set as in simd.h.
//
// lanes                        VEC_LANES 32-bit integers in a register
// lanes_bytes(p)               byte i of p in lane i
// lanes_put_bytes(p, a)        the lowest byte of each lane to p
// lanes_zero, lanes_from(a)    zeros; a converted, a being whole numbers
// lanes_add_shifted(a, b, n)   a + b * 2^n
// code_number(bits, a, at)     of each lane the `bits` bits from bit `at` on, as a float

#ifndef FATHOM_CPU_X86_KV_LANES_H
#define FATHOM_CPU_X86_KV_LANES_H

#include "cpu/x86/simd.h"

#ifdef __AVX512F__
#    include "cpu/x86/kv_lanes_avx512.h"
#else
#    include "cpu/x86/kv_lanes_avx2.h"
#endif

#endif
