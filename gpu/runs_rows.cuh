// How rows in codes, or in 16 bits, become operands of mma.sync.
//
// Of a block of channels of a key the lane at place p loads 16, four for each step of the products,
// as two pairs; of a value the lane of group g loads 8, as four pairs. Which they are is free, and
// such that a lane's are neighbours in memory.

#ifndef FATHOM_GPU_RUNS_ROWS_CUH
#define FATHOM_GPU_RUNS_ROWS_CUH

#include "gpu/attend_decode.cuh"
#include "src/iface/kv_kernels.h"

static_assert(+BLOCK == +KV_GROUP, "a block of channels has one step and min");

// N words, or zeros.
template <int N>
static __device__ __forceinline__ void read_words(unsigned *w, const char *from, bool is_there)
{
    struct alignas(4 * N) words {
        unsigned values[N];
    };
    words got = {};
    if (is_there) got = *reinterpret_cast<const words *>(from);
#pragma unroll
    for (int i = 0; i < N; i++)
        w[i] = got.values[i];
}

template <class V>
struct plain_rows {
    using values = V;
    enum { BITS = 0, KEY_WORDS = 8, VALUE_WORDS = 4, VALUE_BYTES = 16 };
    static __device__ uint32_t key_channel(uint32_t step, uint32_t place, uint32_t i)
    {
        return step / 2 * 32 + 8 * place + step % 2 * 4 + i;
    }
    static __device__ uint32_t value_channel(uint32_t group, uint32_t i) { return 8 * group + i; }
    static __device__ void load_key(unsigned (&w)[KEY_WORDS], const char *row, uint32_t place,
                                    uint32_t at, uint32_t end, bool is_there)
    {
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            const uint32_t from = at + 64 * half + 16 * place;
            read_words<4>(w + 4 * half, row + from, is_there && from < end);
        }
    }
    static __device__ void load_value(unsigned (&w)[VALUE_WORDS], const char *from, bool is_there)
    {
        read_words<4>(w, from, is_there);
    }
    static __device__ unsigned key_pair(const unsigned (&w)[KEY_WORDS], uint32_t step, uint32_t i)
    {
        return w[2 * step + i];
    }
    static __device__ unsigned value_pair(const unsigned (&w)[VALUE_WORDS], uint32_t i)
    {
        return w[i];
    }
};

// A word has the codes of four channels in each of its slots of B bits. Pair i is of its bytes i
// and i + 2.
template <int B>
struct code_rows {
    using values = bf16_values;
    enum { BITS = B, SLOTS = 8 / B, KEY_WORDS = B / 2, VALUE_WORDS = (B + 3) / 4, VALUE_BYTES = B };
    static __device__ uint32_t channel(uint32_t byte, uint32_t slot)
    {
        return byte / KV_PIECE_BYTES * (128 / B) + slot * KV_PIECE_BYTES + byte % KV_PIECE_BYTES;
    }
    static __device__ uint32_t key_channel(uint32_t step, uint32_t place, uint32_t i)
    {
        return channel(2 * B * place + step / SLOTS * 4 + i / 2 + i % 2 * 2, step % SLOTS);
    }
    static __device__ uint32_t value_channel(uint32_t group, uint32_t i)
    {
        if (B == 2) return channel(2 * group + i % 2, i / 2);
        return channel(B * group + i / 4 / SLOTS * 4 + i / 2 % 2 + i % 2 * 2, i / 4 % SLOTS);
    }
    static __device__ void load_key(unsigned (&w)[KEY_WORDS], const char *row, uint32_t place,
                                    uint32_t at, uint32_t end, bool is_there)
    {
        const uint32_t from = at + 2 * B * place;
        read_words<KEY_WORDS>(w, row + from, is_there && from < end);
    }
    // Values are aligned to a word only. The two bytes in B = 2 become those of a pair.
    static __device__ void load_value(unsigned (&w)[VALUE_WORDS], const char *from, bool is_there)
    {
        if (B == 2) {
            const unsigned got = is_there ? *reinterpret_cast<const uint16_t *>(from) : 0;
            w[0] = (got & 0xff) | (got & 0xff00) << 8;
        } else {
#pragma unroll
            for (int i = 0; i < VALUE_WORDS; i++)
                read_words<1>(w + i, from + 4 * i, is_there);
        }
    }
    // The number of the code that begins at this bit, in the upper half: 2^23 + code is exact.
    static __device__ unsigned widen(unsigned word, uint32_t bit)
    {
        const unsigned code = word >> bit & ((1u << B) - 1);
        return __float_as_uint(__uint_as_float(0x4b000000u | code) - 0x1p23f);
    }
    static __device__ unsigned pair(unsigned word, uint32_t slot, uint32_t i)
    {
        const uint32_t bit = slot * B + 8 * i;
        return high_halves(widen(word, bit), widen(word, bit + 16));
    }
    static __device__ unsigned key_pair(const unsigned (&w)[KEY_WORDS], uint32_t step, uint32_t i)
    {
        return pair(w[step / SLOTS], step % SLOTS, i);
    }
    static __device__ unsigned value_pair(const unsigned (&w)[VALUE_WORDS], uint32_t i)
    {
        return B == 2 ? pair(w[0], i, 0) : pair(w[i / 2 / SLOTS], i / 2 % SLOTS, i % 2);
    }
};

#endif
