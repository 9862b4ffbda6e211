// Bugs inside of kernels. All run as two blocks of 64 threads on BUG_COUNT integers.

#include "tests/gpu/gpu_rig.h"

#include "gpu/dialect.cuh"
#include "gpu/warp.cuh"
#include "tests/emu/bugs.h"

enum { BLOCKS = 2, THREADS = 64, COUNT = BLOCKS * THREADS };

static __device__ int index()
{
    return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
}

static __device__ int thread()
{
    return static_cast<int>(threadIdx.x);
}

// ---- Barriers -----------------------------------------------------------------------------------

template <bool is_planted>
__global__ void use_before_barrier(const int *in, int *out)
{
    SHARED_ARRAY(int, values, THREADS);
    values[thread()] = in[index()];
    if (!is_planted) __syncthreads();
    out[index()] = values[THREADS - 1 - thread()];
}

// The next round is written while a neighbour may still read this one.
template <bool is_planted>
__global__ void reuse_before_barrier(const int *in, int *out)
{
    SHARED_ARRAY(int, values, THREADS);
    int sum = 0;
    for (int round = 0; round < 3; round++) {
        values[thread()] = in[index()] * (round + 1);
        __syncthreads();
        sum += values[min(thread() + 1, THREADS - 1)];
        if (!is_planted) __syncthreads();
    }
    out[index()] = sum;
}

// A sum over the block, after which a warp may be at the next sum while another reads this one's
// parts: only a warp that runs ahead by several operations shows it.
template <bool is_planted>
__global__ void warp_runs_ahead(const int *in, int *out)
{
    SHARED_ARRAY(float, parts, THREADS / GPU_WARP);
    float total = 0;
    for (int round = 1; round < 4; round++) {
        const float sum = warp_sum(static_cast<float>(round * in[index()]));
        if (thread() % GPU_WARP == 0) parts[thread() / GPU_WARP] = sum;
        __syncthreads();
        total +=
            warp_sum(thread() % GPU_WARP < THREADS / GPU_WARP ? parts[thread() % GPU_WARP] : 0);
        if (!is_planted) __syncthreads();
    }
    out[index()] = static_cast<int>(total);
}

template <bool is_planted>
__global__ void no_syncwarp(const int *in, int *out)
{
    SHARED_ARRAY(int, values, THREADS);
    values[thread()] = in[index()];
    if (!is_planted) __syncwarp();
    out[index()] = values[thread() ^ 1];
}

template <bool is_planted>
__global__ void divergent_barrier(const int *in, int *out)
{
    SHARED_ARRAY(int, values, THREADS);
    values[thread()] = in[index()];
    if (is_planted && thread() < THREADS / 2)
        __syncthreads();
    else
        __syncthreads();
    out[index()] = values[THREADS - 1 - thread()];
}

template <bool is_planted>
__global__ void exit_before_barrier(const int *in, int *out)
{
    SHARED_ARRAY(int, values, THREADS);
    if (is_planted && thread() >= THREADS / 2) return;
    values[thread()] = in[index()];
    __syncthreads();
    out[index()] = values[thread()];
}

// A warp's lanes wait for the block, while the block waits for the warp.
template <bool is_planted>
__global__ void deadlock(const int *in, int *out)
{
    if (is_planted && thread() == 3)
        __syncthreads();
    else
        __syncwarp();
    if (!is_planted || thread() != 3) __syncthreads();
    out[index()] = in[index()];
}

// ---- Shared memory ------------------------------------------------------------------------------

// Every thread writes the same place: which one is last is nobody's to say.
template <bool is_planted>
__global__ void last_writer(const int *in, int *out)
{
    SHARED_VALUE(int, winner);
    if (is_planted || thread() == THREADS / 2) winner = thread();
    __syncthreads();
    out[index()] = in[index()] + winner;
}

// Not atomic; but threads of the emulation never stop half way.
template <bool is_planted>
__global__ void lost_update(const int *in, int *out)
{
    SHARED_VALUE(int, sum);
    if (thread() == 0) sum = 0;
    __syncthreads();
    if (is_planted)
        sum += in[index()];
    else
        atomicAdd(&sum, in[index()]);
    __syncthreads();
    out[index()] = sum;
}

// Three quarters of the array are written.
template <bool is_planted>
__global__ void unwritten_shared(const int *in, int *out)
{
    SHARED_ARRAY(int, values, THREADS);
    if (!is_planted || thread() % 4 != 0) values[thread()] = in[index()];
    __syncthreads();
    out[index()] = values[THREADS - 1 - thread()];
}

// What was never written is only compared: of the two poisons neither is right by luck.
template <bool is_planted>
__global__ void unwritten_flag(const int *in, int *out)
{
    SHARED_VALUE(int, flag);
    if (!is_planted && thread() == 0) flag = -1;
    __syncthreads();
    out[index()] = flag < 0 ? in[index()] : 0;
}

template <bool is_planted>
__global__ void beyond_shared_array(const int *in, int *out)
{
    SHARED_ARRAY(int, values, THREADS);
    const int to = thread() + (is_planted ? 1 : 0);
    values[to] = in[index()];
    __syncthreads();
    out[index()] = values[thread()];
}

// The launch gives room for THREADS integers.
template <bool is_planted>
__global__ void beyond_dynamic_shared(const int *in, int *out)
{
    SHARED_DYNAMIC(bytes);
    int *values = reinterpret_cast<int *>(bytes) + (is_planted ? 1 : 0);
    values[thread()] = in[index()];
    __syncthreads();
    out[index()] = values[thread()];
}

template <bool is_planted>
__global__ void too_much_shared(const int *in, int *out)
{
    SHARED_ARRAY(int, values, is_planted ? 13000 : THREADS);
    values[thread()] = in[index()];
    __syncthreads();
    out[index()] = values[THREADS - 1 - thread()];
}

// ---- Global memory ------------------------------------------------------------------------------

template <bool is_planted>
__global__ void read_beyond(const int *in, int *out)
{
    out[index()] = in[is_planted ? index() + 1 : index()] > 0;
}

template <bool is_planted>
__global__ void write_before(const int *in, int *out)
{
    int *at = out + index();
    *at = in[index()];
    if (is_planted) at[-COUNT / 2] = 0;
}

// A vector of two lies at a multiple of its size.
template <bool is_planted>
__global__ void misaligned_vector(const int *in, int *out)
{
    const int at = is_planted ? 1 : 4;
    const int2 *pair = reinterpret_cast<const int2 *>(in + at);
    out[index()] = pair->x > 0 && pair->y > 0; // clang does not see it in a copy of the whole
}

// A block reads what another wrote in the same launch.
template <bool is_planted>
__global__ void between_blocks(const int *in, int *out)
{
    out[index()] = in[index()];
    if (is_planted && blockIdx.x == 1) out[index()] = out[thread()] < 0 ? 1 : in[index()];
}

// A sum of floats in the order in which threads come.
template <bool is_planted>
__global__ void order_of_floats(const int *in, int *out)
{
    SHARED_VALUE(float, sum);
    if (thread() == 0) sum = 0;
    __syncthreads();
    const float part = 1.0f / static_cast<float>(in[index()] + 2);
    const float total = block_sum(part);
    if (is_planted)
        atomicAdd(&sum, part);
    else if (thread() == 0)
        sum = total;
    __syncthreads();
    out[index()] = __float_as_int(sum);
}

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

// ---- Running them -------------------------------------------------------------------------------

static bool run_kernel(const bug *bug, bool is_planted)
{
    const gpu_grid grid = {{BLOCKS, 1, 1}, THREADS, THREADS * sizeof(int)};
    int in[COUNT], want[COUNT], got[COUNT];
    for (int i = 0; i < COUNT; i++)
        in[i] = i * i % 97 + 1;
    int *dev_in = static_cast<int *>(gpu_put(in, sizeof in));
    int *dev_want = static_cast<int *>(gpu_new(sizeof want));
    int *dev_got = static_cast<int *>(gpu_new(sizeof got));
    gpu_ok(LAUNCH(bug->clean, grid, NULL, dev_in, dev_want));
    gpu_take(want, dev_want, sizeof want);
    gpu_ok(LAUNCH(is_planted ? bug->planted : bug->clean, grid, NULL, dev_in, dev_got));
    gpu_take(got, dev_got, sizeof got);
    gpu_ok(cudaFree(dev_in));
    return memcmp(want, got, sizeof got) == 0;
}

#define BUG(name, caught, says)                                                                    \
    {                                                                                              \
#        name, caught, says, run_kernel, name < false>, name < true>                               \
    }
const struct bug kernel_bugs[] = {
    BUG(use_before_barrier, EVERY | TSAN, NULL),
    BUG(reuse_before_barrier, REVERSE | SWAP | TSAN, NULL),
    BUG(warp_runs_ahead, PLAIN | REVERSE | SWAP | LATE | TSAN, NULL),
    BUG(no_syncwarp, EVERY | TSAN, NULL),
    BUG(divergent_barrier, EVERY, "different barriers"),
    BUG(exit_before_barrier, EVERY, "have ended"),
    BUG(deadlock, EVERY, "for ever"),
    BUG(last_writer, EVERY | TSAN, NULL),
    BUG(lost_update, TSAN, NULL),
    BUG(unwritten_shared, EVERY, NULL),
    BUG(unwritten_flag, SWAP, NULL),
    BUG(beyond_shared_array, EVERY, "out of bounds"),
    BUG(beyond_dynamic_shared, EVERY, "heap-buffer-overflow"),
    BUG(too_much_shared, EVERY, "static shared memory"),
    BUG(read_beyond, EVERY, "use-after-poison"),
    BUG(write_before, EVERY, "use-after-poison"),
    BUG(misaligned_vector, EVERY, "misaligned address"),
    BUG(between_blocks, REVERSE | SWAP, NULL),
    BUG(order_of_floats, SWAP, "depends on the order"),
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
const size_t n_kernel_bugs = sizeof kernel_bugs / sizeof kernel_bugs[0];
