// Bugs inside of kernels: barriers, shared memory, global memory.

#include "tests/emu/bugs.cuh"

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

// Half of the warp meets once more than the rest.
template <bool is_planted>
__global__ void uneven_syncwarps(const int *in, int *out)
{
    SHARED_ARRAY(int, values, THREADS);
    if (thread() % 32 < 16) __syncwarp(0xffffu);
    values[thread()] = in[index()];
    if (!is_planted) __syncwarp();
    out[index()] = values[thread() ^ 16];
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

// Vectors of four in an array of single ones, which lies where one of those may.
template <bool is_planted>
__global__ void shared_of_smaller_type(const int *in, int *out)
{
    using type = std::conditional_t<is_planted, int, int4>;
    SHARED_ARRAY(type, values, THREADS * sizeof(int) / sizeof(type));
    int4 *vectors = reinterpret_cast<int4 *>(values);
    if (thread() % 4 == 0) vectors[thread() / 4].x = in[index()];
    __syncthreads();
    out[index()] = vectors[thread() / 4].x;
}

// ---- Global memory ------------------------------------------------------------------------------

template <bool is_planted>
__global__ void read_beyond(const int *in, int *out)
{
    out[index()] = in[is_planted ? index() + 1 : index()] > 0;
}

// By rows of 4 KiB.
template <bool is_planted>
__global__ void read_far_beyond(const int *in, int *out)
{
    out[index()] = in[is_planted ? index() + 1024 : index()] > 0;
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

const struct bug kernel_bugs[] = {
    BUG(use_before_barrier, EVERY | TSAN, NULL),
    BUG(reuse_before_barrier, REVERSE | SWAP | TSAN, NULL),
    BUG(warp_runs_ahead, PLAIN | REVERSE | SWAP | LATE | TSAN, NULL),
    BUG(no_syncwarp, EVERY | TSAN, NULL),
    BUG(uneven_syncwarps, EVERY | TSAN, NULL),
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
    BUG(shared_of_smaller_type, EVERY, "misaligned address"),
    BUG(read_beyond, EVERY, "use-after-poison"),
    BUG(read_far_beyond, EVERY, "use-after-poison"),
    BUG(write_before, EVERY, "use-after-poison"),
    BUG(misaligned_vector, EVERY, "misaligned address"),
    BUG(between_blocks, REVERSE | SWAP, NULL),
    BUG(order_of_floats, SWAP, "depends on the order"),
};
const size_t n_kernel_bugs = sizeof kernel_bugs / sizeof kernel_bugs[0];
