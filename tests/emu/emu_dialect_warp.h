// Of the dialect: barriers, operations of warps, atomics, fences, and what gpu/dialect.cuh says in
// PTX. Included by emu_dialect.h only.

#ifndef FATHOM_TESTS_EMU_EMU_DIALECT_WARP_H
#define FATHOM_TESTS_EMU_EMU_DIALECT_WARP_H

#include "tests/emu/emu_dialect.h"

// ---- Barriers -----------------------------------------------------------------------------------

inline void __syncthreads(EMU_HERE)
{
    const emu_place place = {"__syncthreads", file, line};
    emu_barrier(&place, false);
}

inline int __syncthreads_count(int predicate, EMU_HERE)
{
    const emu_place place = {"__syncthreads_count", file, line};
    return static_cast<int>(emu_barrier(&place, predicate != 0));
}

inline int __syncthreads_or(int predicate, EMU_HERE)
{
    const emu_place place = {"__syncthreads_or", file, line};
    return emu_barrier(&place, predicate != 0) > 0;
}

inline int __syncthreads_and(int predicate, EMU_HERE)
{
    const emu_place place = {"__syncthreads_and", file, line};
    return emu_barrier(&place, predicate != 0) == blockDim.x;
}

inline void __syncwarp(unsigned mask = 0xffffffffu, EMU_HERE)
{
    const emu_place place = {"__syncwarp", file, line};
    emu_meet(&place, mask, emu_complete_nothing, nullptr, nullptr);
}

// ---- Shuffles and votes -------------------------------------------------------------------------

namespace emu
{

template <class T>
T shuffle(const char *what, unsigned mask, T value, int from, const char *file, int line)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    static_assert(std::is_trivially_copyable<T>::value, "shuffles move plain values");
    const emu_place place = {what, file, line};
    emu_shuffle in = {0, from};
    uint64_t out = 0;
    memcpy(&in.value, &value, sizeof value);
    emu_meet(&place, mask, emu_complete_shuffle, &in, &out);
    memcpy(&value, &out, sizeof value);
    return value;
}

inline int lane()
{
    return static_cast<int>(emu_lane());
}

// The place in a segment of `width` lanes.
inline int place_in(int width)
{
    return lane() & (width - 1);
}

} // namespace emu

// The source's number counts within the segment, and wraps.
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, EMU_HERE)
{
    const int source = (emu::lane() & ~(width - 1)) | (from & (width - 1));
    return emu::shuffle("__shfl_sync", mask, value, source, file, line);
}

// A source beyond the segment's end gives the lane its own value; here and below.
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, EMU_HERE)
{
    const int source = emu::lane() ^ bits, last = emu::lane() | (width - 1);
    return emu::shuffle("__shfl_xor_sync", mask, value, source <= last ? source : emu::lane(), file,
                        line);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, EMU_HERE)
{
    const bool inside = emu::place_in(width) + static_cast<int>(by) < width;
    const int source = inside ? emu::lane() + static_cast<int>(by) : emu::lane();
    return emu::shuffle("__shfl_down_sync", mask, value, source, file, line);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, EMU_HERE)
{
    const bool inside = emu::place_in(width) >= static_cast<int>(by);
    const int source = inside ? emu::lane() - static_cast<int>(by) : emu::lane();
    return emu::shuffle("__shfl_up_sync", mask, value, source, file, line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EMU_HERE)
{
    const emu_place place = {"a vote", file, line};
    bool in = predicate != 0;
    unsigned out = 0;
    emu_meet(&place, mask, emu_complete_vote, &in, &out);
    return out;
}

inline int __any_sync(unsigned mask, int predicate, EMU_HERE)
{
    return __ballot_sync(mask, predicate, file, line) != 0;
}

inline int __all_sync(unsigned mask, int predicate, EMU_HERE)
{
    return __ballot_sync(mask, predicate, file, line) == mask;
}

inline unsigned __match_any_sync(unsigned mask, unsigned value, EMU_HERE)
{
    const emu_place place = {"__match_any_sync", file, line};
    unsigned out = 0;
    emu_meet(&place, mask, emu_complete_match, &value, &out);
    return out;
}

// ---- Atomics and fences -------------------------------------------------------------------------

namespace emu
{

template <class T, class F>
T read_modify_write(T *at, F change)
{
    using word = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
    static_assert(sizeof(T) == sizeof(word), "atomics are of 4 or 8 bytes");
    emu_atomic(at);
    word *bits = reinterpret_cast<word *>(at), old = __atomic_load_n(bits, __ATOMIC_RELAXED), next;
    T before;
    do {
        memcpy(&before, &old, sizeof before);
        T after = change(before);
        memcpy(&next, &after, sizeof next);
    } while (
        !__atomic_compare_exchange_n(bits, &old, next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return before;
}

// Integers wrap.
template <class T>
T sum(T a, T b)
{
    if constexpr (std::is_integral<T>::value)
        return static_cast<T>(static_cast<std::make_unsigned_t<T>>(a) +
                              static_cast<std::make_unsigned_t<T>>(b));
    else
        return a + b;
}

} // namespace emu

#define EMU_ATOMIC(name, result)                                                                   \
    template <class T>                                                                             \
    T name(T *at, typename emu::same<T>::type x)                                                   \
    {                                                                                              \
        return emu::read_modify_write(at, [x](T old) -> T { return result; });                     \
    }
EMU_ATOMIC(atomicAdd, emu::sum(old, x))
EMU_ATOMIC(atomicSub, emu::sum(old, static_cast<T>(0 - x)))
EMU_ATOMIC(atomicMax, old < x ? x : old)
EMU_ATOMIC(atomicMin, x < old ? x : old)
EMU_ATOMIC(atomicOr, old | x)
EMU_ATOMIC(atomicAnd, old &x)
EMU_ATOMIC(atomicXor, old ^ x)
EMU_ATOMIC(atomicExch, ((void)old, x))

template <class T>
T atomicCAS(T *at, typename emu::same<T>::type expected, typename emu::same<T>::type x)
{
    return emu::read_modify_write(at, [=](T old) -> T { return old == expected ? x : old; });
}

inline void __threadfence()
{
    emu_fence();
}

inline void __threadfence_block()
{
    emu_fence();
}

// ---- What gpu/dialect.cuh says in PTX -----------------------------------------------------------

inline void dev_copy16(void *shared, const void *global, bool valid = true)
{
    emu_copy(shared, global, valid ? 16 : 0);
}

inline void dev_copy_commit()
{
    emu_copy_commit();
}

template <int N>
inline void dev_copy_wait()
{
    emu_copy_wait(N);
}

namespace emu
{

template <class T>
void multiply(emu_complete_fn complete, T (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2],
              const char *file, int line)
{
    const emu_place place = {"mma.sync", file, line};
    emu_mma in;
    memcpy(in.a, a, sizeof in.a);
    memcpy(in.b, b, sizeof in.b);
    memcpy(in.c, c, sizeof in.c);
    emu_meet(&place, 0xffffffffu, complete, &in, c);
}

inline void load_matrix(emu_complete_fn complete, unsigned (&r)[4], const void *row,
                        const char *file, int line)
{
    const emu_place place = {"ldmatrix", file, line};
    emu_check_row(row);
    unsigned mine[4]; // read here, where the sanitizers look
    memcpy(mine, row, sizeof mine);
    emu_meet(&place, 0xffffffffu, complete, mine, r);
}

} // namespace emu

inline void dev_mma_bf16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], EMU_HERE)
{
    emu::multiply(emu_complete_mma_bf16, c, a, b, file, line);
}

inline void dev_mma_f16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], EMU_HERE)
{
    emu::multiply(emu_complete_mma_f16, c, a, b, file, line);
}

inline void dev_mma_s8(int (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2], EMU_HERE)
{
    emu::multiply(emu_complete_mma_s8, c, a, b, file, line);
}

inline void dev_load_matrix(unsigned (&r)[4], const void *row, EMU_HERE)
{
    emu::load_matrix(emu_complete_ldmatrix, r, row, file, line);
}

inline void dev_load_matrix_turned(unsigned (&r)[4], const void *row, EMU_HERE)
{
    emu::load_matrix(emu_complete_ldmatrix_trans, r, row, file, line);
}

#endif
