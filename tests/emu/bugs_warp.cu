// Bugs inside of kernels: operations of warps, asynchronous copies, matrices.

#include "tests/emu/bugs.cuh"

// ---- Warps --------------------------------------------------------------------------------------

template <bool is_planted>
__global__ void half_a_warp(const int *in, int *out)
{
    int value = in[index()];
    if (!is_planted || thread() % 32 < 16) value = __shfl_xor_sync(0xffffffffu, value, 1);
    out[index()] = value;
}

template <bool is_planted>
__global__ void lane_outside_mask(const int *in, int *out)
{
    int value = in[index()];
    if (thread() % 32 < 16) value = __shfl_xor_sync(0xffffu, value, is_planted ? 16 : 8);
    out[index()] = value;
}

template <bool is_planted>
__global__ void mask_without_self(const int *in, int *out)
{
    const unsigned mask = is_planted ? 0xfffffffeu : 0xffffffffu;
    out[index()] = static_cast<int>(__ballot_sync(mask, in[index()] > 3));
}

template <bool is_planted>
__global__ void different_operations(const int *in, int *out)
{
    int value = in[index()];
    if (is_planted && thread() % 2 == 0)
        value = __shfl_xor_sync(0xffffffffu, value, 1);
    else
        value = __shfl_xor_sync(0xffffffffu, value, 1);
    out[index()] = value;
}

// ---- Asynchronous copies ------------------------------------------------------------------------

template <bool is_planted>
__global__ void wrong_wait(const int *in, int *out)
{
    SHARED_ARRAY(int4, values, THREADS / 4);
    const int4 zero = {0, 0, 0, 0};
    if (thread() < THREADS / 4) {
        values[thread()] = zero;
        dev_copy16(&values[thread()], in + blockIdx.x * THREADS + 4 * thread());
    }
    dev_copy_commit();
    dev_copy_wait<is_planted ? 1 : 0>();
    __syncthreads();
    out[index()] = reinterpret_cast<const int *>(values)[thread()];
    dev_copy_wait<0>();
}

// The copy after the next may land while other threads still read what lies there: late copies hide
// it. Threads at both ends of the block copy, so that it shows in both orders.
template <bool is_planted>
__global__ void prefetch_into_use(const int *in, int *out)
{
    enum { CHUNKS = THREADS / 4, ROUNDS = 4 };
    SHARED_ARRAY(int4, tiles, 2 * CHUNKS);
    const int last = THREADS - CHUNKS / 2;
    const int chunk = thread() < CHUNKS / 2 ? thread() : thread() - last + CHUNKS / 2;
    const bool copies = thread() < CHUNKS / 2 || thread() >= last;
    int sum = 0;
    for (int round = 0; round <= ROUNDS; round++) {
        if (copies && round < ROUNDS)
            dev_copy16(&tiles[round % 2 * CHUNKS + chunk], in + round * CHUNKS + 4 * chunk);
        dev_copy_commit();
        dev_copy_wait<1>();
        __syncthreads();
        const int *before = reinterpret_cast<const int *>(&tiles[(round + 1) % 2 * CHUNKS]);
        if (round > 0) sum += round * before[THREADS - 1 - thread()];
        if (!is_planted) __syncthreads();
    }
    dev_copy_wait<0>();
    out[index()] = sum;
}

// The wait comes, but for the copies of the thread itself; others are seen after a barrier.
template <bool is_planted>
__global__ void wait_without_barrier(const int *in, int *out)
{
    SHARED_ARRAY(int4, values, THREADS / 4);
    if (thread() % 4 == 0) dev_copy16(&values[thread() / 4], in + blockIdx.x * THREADS + thread());
    dev_copy_commit();
    dev_copy_wait<0>();
    if (!is_planted) __syncthreads();
    out[index()] = reinterpret_cast<const int *>(values)[thread() ^ 4];
}

template <bool is_planted>
__global__ void misaligned_copy(const int *in, int *out)
{
    SHARED_ARRAY(int4, values, THREADS / 4);
    if (thread() < THREADS / 4 - 1)
        dev_copy16(&values[thread()], in + 4 * thread() + (is_planted ? 1 : 0));
    dev_copy_commit();
    dev_copy_wait<0>();
    out[index()] = in[index()];
}

template <bool is_planted>
__global__ void copy_without_wait(const int *in, int *out)
{
    SHARED_ARRAY(int4, values, THREADS / 4);
    if (thread() < THREADS / 4) dev_copy16(&values[thread()], in + 4 * thread());
    dev_copy_commit();
    if (!is_planted) dev_copy_wait<0>();
    out[index()] = in[index()];
}

const struct bug warp_bugs[] = {
    BUG(half_a_warp, EVERY, "for ever"),
    BUG(lane_outside_mask, EVERY, "not in the mask"),
    BUG(mask_without_self, EVERY, "not in its mask"),
    BUG(different_operations, EVERY, "different operations"),
    BUG(wrong_wait, PLAIN | RANDOM | SWAP, NULL),
    BUG(prefetch_into_use, REVERSE | SWAP | LATE | TSAN, NULL),
    BUG(wait_without_barrier, EVERY | TSAN, NULL),
    BUG(misaligned_copy, EVERY, "aligned to 16"),
    BUG(copy_without_wait, PLAIN | RANDOM | SWAP, "did not wait for"),
};
const size_t n_warp_bugs = sizeof warp_bugs / sizeof warp_bugs[0];
