// How the rows of K and V reach the caches before attention uses them: in one of two ways,
// whichever reads faster on the processor (tools/peers/README.md has what was tried). Only rows
// that lie one after the other are fetched.
//
// AMD (measured on Zen 4): in the order of their use, AHEAD_BYTES before that of a row or of a step
// of rows, to the first-level cache. With one query head the work keeps to the order of addresses,
// so the processor follows K and V by itself as well; K with AVX-512 best so.
//
// Elsewhere (measured on Intel): while AHEAD_BLOCKS blocks are worked on, the next so many are
// fetched to the second-level cache, as fast as these are read: a line of each place by turns. The
// hardware streams the page of each place on its own, so the pauses at the beginning of a page hide
// behind other pages.

#ifndef FATHOM_CPU_X86_ATTEND_FETCH_H
#define FATHOM_CPU_X86_ATTEND_FETCH_H

#include "cpu/x86/simd.h"

#include "src/iface/kernels.h"

enum {
    BLOCK_KEYS = 32, // that are worked on together
    LINE_BYTES = 64,
    AHEAD_BYTES = 1024, // in order
    AHEAD_BLOCKS = 4,   // by turns
    AHEAD_KEYS = AHEAD_BLOCKS * BLOCK_KEYS,
    N_PLACES = 2 * AHEAD_BLOCKS, // of K and of V
};

struct fetch {
    bool in_order, by_turns;      // the way; neither where rows lie apart
    bool cold;                    // in order, and no row of the tile has read the block yet
    const char *places[N_PLACES]; // by turns: the blocks that come next
    size_t ahead_at, ahead_end;   // what was and what will be fetched of each, in bytes
};

static inline struct fetch fetch_begin(const struct attend_args *a, size_t value_bytes)
{
    const bool amd = __builtin_cpu_is("amd") != 0;
    const bool close =
        a->k_stride_bytes == a->d_k * value_bytes && a->v_stride_bytes == a->d_v * value_bytes;
    return (struct fetch){.in_order = close && amd, .by_turns = close && !amd};
}

// Fetches the lines that begin AHEAD_BYTES after each of these bytes, whose turn it is.
SIMD_INLINE void fetch_in_order(const struct fetch *f, const char *at, size_t bytes)
{
    if (!f->cold) return;
    const uintptr_t begin = (uintptr_t)at + AHEAD_BYTES, mask = LINE_BYTES - 1;
    for (uintptr_t line = (begin + mask) & ~mask; line < begin + bytes; line += LINE_BYTES)
        _mm_prefetch((const char *)line, _MM_HINT_T0);
}

SIMD_INLINE void fetch_by_turns(struct fetch *f)
{
    if (f->ahead_at >= f->ahead_end) return;
#pragma GCC unroll 8
    for (int i = 0; i < N_PLACES; i++)
        _mm_prefetch(f->places[i] + f->ahead_at, _MM_HINT_T1);
    f->ahead_at += LINE_BYTES;
}

// How many steps of a loop that reads so many bytes in each have a line of each place to fetch.
SIMD_INLINE uint32_t fetch_period(size_t step_bytes)
{
    return step_bytes < N_PLACES * LINE_BYTES ? (uint32_t)(N_PLACES * LINE_BYTES / step_bytes) : 1;
}

// Sets out what comes after the AHEAD_KEYS keys from `first` on. In place of a block that is not
// there stands one that the cache has.
static inline void fetch_place(struct fetch *f, const struct attend_args *a, uint32_t first)
{
    if (!f->by_turns) return;
    const bool more = a->n_keys - first > AHEAD_KEYS;
    f->ahead_at = 0;
    f->ahead_end = more ? BLOCK_KEYS * a->k_stride_bytes : 0;
    for (uint32_t i = 0; i < AHEAD_BLOCKS; i++) {
        const size_t key = first + (size_t)(AHEAD_BLOCKS + i) * BLOCK_KEYS;
        const size_t at = key < a->n_keys ? key : first;
        f->places[2 * i] = (const char *)a->k + at * a->k_stride_bytes;
        f->places[2 * i + 1] = (const char *)a->v + at * a->v_stride_bytes;
    }
}

#endif
