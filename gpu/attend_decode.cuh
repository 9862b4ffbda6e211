// What the kernels of decoding share, those of dense rows and of runs: how operands of mma.sync
// come about, and weights.

#ifndef FATHOM_GPU_ATTEND_DECODE_CUH
#define FATHOM_GPU_ATTEND_DECODE_CUH

#include "gpu/attend.cuh"

enum { KEYS = 16 };  // that a warp takes at a time
enum { WORDS = 4 };  // of two values, that are a load
enum { BLOCK = 64 }; // channels of values that 8 lanes load

// 16 bytes, or zeros.
static __device__ __forceinline__ void load_words(unsigned (&w)[WORDS], const char *from,
                                                  bool is_there)
{
    uint4 got = make_uint4(0, 0, 0, 0);
    if (is_there) got = __ldg(reinterpret_cast<const uint4 *>(from));
    w[0] = got.x;
    w[1] = got.y;
    w[2] = got.z;
    w[3] = got.w;
}

// High and low halves of four values.
template <class V>
static __device__ __forceinline__ uint4 split_values(const float (&x)[4])
{
    const unsigned high0 = V::pack(x[0], x[1]), high1 = V::pack(x[2], x[3]);
    const float2 got0 = V::unpack(high0), got1 = V::unpack(high1);
    return make_uint4(high0, V::pack(x[0] - got0.x, x[1] - got0.y), high1,
                      V::pack(x[2] - got1.x, x[3] - got1.y));
}

// Scores to weights, which sums[0] counts; what was gathered for the row is made relative to a
// greater score.
template <int STEPS, int N>
static __device__ __forceinline__ void weigh(float (&s)[4], float &most, float (&sums)[N],
                                             float (&o)[STEPS][4])
{
    float top = fmaxf(fmaxf(s[0], s[1]), fmaxf(s[2], s[3]));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(most, fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2)));
    const float reference = weight_reference(top);
    if (__any_sync(0xffffffffu, top != most)) {
        const float factor = most == -INFINITY ? 1 : exp2f(weight_reference(most) - reference);
        const int row = static_cast<int>(threadIdx.x % 4 * 2); // its weights are in lane 4 row
        const float left = __shfl_sync(0xffffffffu, factor, 4 * row);
        const float right = __shfl_sync(0xffffffffu, factor, 4 * row + 4);
#pragma unroll
        for (int i = 0; i < N; i++)
            sums[i] *= factor;
#pragma unroll
        for (int i = 0; i < 4 * STEPS; i++)
            o[i / 4][i % 4] *= i % 2 == 0 ? left : right;
        most = top;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        s[i] = exp2f(s[i] - reference);
        sums[0] += s[i];
    }
}

// Two rows of two keys each to columns of two channels: (low halves, high halves) of keys a and b.
static __device__ __forceinline__ unsigned low_halves(unsigned a, unsigned b)
{
    return (a & 0xffff) | b << 16;
}

static __device__ __forceinline__ unsigned high_halves(unsigned a, unsigned b)
{
    return a >> 16 | (b & 0xffff0000);
}

// Channels that a kernel is made for, and tiles of 8 rows: those of attend_decode_rows.
#define DECODE_KERNELS(run) run(64, 2) run(128, 1) run(128, 2) run(256, 1)

#endif
