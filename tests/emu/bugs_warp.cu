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

template <bool is_planted>
__global__ void copy_into_global(const int *in, int *out)
{
    SHARED_ARRAY(int4, values, THREADS / 4);
    int4 *to = is_planted ? reinterpret_cast<int4 *>(out + blockIdx.x * THREADS) : values;
    if (thread() < THREADS / 4) dev_copy16(&to[thread()], in + 4 * thread());
    dev_copy_commit();
    dev_copy_wait<0>();
    __syncthreads();
    out[index()] = in[4 * (thread() / 4)];
}

template <bool is_planted>
__global__ void copy_from_shared(const int *in, int *out)
{
    SHARED_ARRAY(int4, from, 1);
    SHARED_ARRAY(int4, to, 1);
    if (thread() == 0) {
        from[0] = {in[0], 0, 0, 0};
        dev_copy16(to, is_planted ? from : reinterpret_cast<const int4 *>(in));
    }
    dev_copy_commit();
    dev_copy_wait<0>();
    __syncthreads();
    out[index()] = to[0].x;
}

// Where nothing is to be copied the addresses must be aligned all the same.
template <bool is_planted>
__global__ void misaligned_no_copy(const int *in, int *out)
{
    SHARED_ARRAY(int4, values, THREADS);
    dev_copy16(&values[thread()], in + (is_planted ? thread() : 0), false);
    dev_copy_commit();
    dev_copy_wait<0>();
    out[index()] = values[thread()].x;
}

// ---- Matrices -----------------------------------------------------------------------------------

// Rows lie 12 bytes apart in place of 16.
template <bool is_planted>
__global__ void misaligned_row(const int *in, int *out)
{
    SHARED_ARRAY(int4, rows, THREADS);
    unsigned r[4];
    rows[thread()] = {in[index()], 0, 0, 0};
    __syncwarp();
    const char *first = reinterpret_cast<const char *>(&rows[thread() / 32 * 32]);
    dev_load_matrix(r, first + thread() % 32 * (is_planted ? 12 : 16));
    out[index()] = static_cast<int>(r[0]);
}

// A row in the thread's own memory, which ldmatrix cannot name.
template <bool is_planted>
__global__ void row_not_shared(const int *in, int *out)
{
    SHARED_ARRAY(int4, rows, THREADS);
    unsigned r[4];
    const int4 own = {in[index()], 0, 0, 0};
    rows[thread()] = own;
    __syncwarp();
    dev_load_matrix(r, is_planted ? &own : &rows[thread()]);
    out[index()] = static_cast<int>(r[0]);
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
    BUG(copy_into_global, EVERY, "does not write to shared memory"),
    BUG(copy_from_shared, EVERY, "does not read global memory"),
    BUG(misaligned_no_copy, EVERY, "aligned to 16"),
    BUG(misaligned_row, EVERY, "ldmatrix"),
    BUG(row_not_shared, EVERY, "ldmatrix"),
};
const size_t n_warp_bugs = sizeof warp_bugs / sizeof warp_bugs[0];
