// The dialect that kernels are written in (gpu/dialect.cuh): each word of it does what the CUDA and
// PTX manuals say. In the emulation that tests the emulation; on a device it shows that both agree.

#include "tests/gpu/gpu_rig.h"

#include <math.h>

#include "gpu/dialect.cuh"
#include "gpu/warp.cuh"

extern "C" {
#include "src/base/half.h"
}

static const gpu_grid one_warp = {{1, 1, 1}, 32, 0};
static const gpu_grid one_block = {{1, 1, 1}, 256, 0};
static const unsigned whole_warp = 0xffffffffu;

// ---- Places and barriers ------------------------------------------------------------------------

__global__ void ids_kernel(unsigned *out)
{
    const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    out[block * blockDim.x + threadIdx.x] = block * 1000 + threadIdx.x;
}

static void run_ids()
{
    const gpu_grid grid = {{3, 2, 2}, 64, 0};
    static unsigned got[12 * 64];
    unsigned *dev = static_cast<unsigned *>(gpu_new(sizeof got));
    gpu_ok(LAUNCH(ids_kernel, grid, NULL, dev));
    gpu_take(got, dev, sizeof got);
    for (unsigned i = 0; i < 12 * 64; i++)
        assert_int_equal(got[i], i / 64 * 1000 + i % 64);
}

// Each thread reads what its opposite wrote, in static and in dynamic shared memory.
__global__ void exchange_kernel(const int *in, int *out)
{
    SHARED_ARRAY(int, values, 256);
    SHARED_VALUE(int, sum);
    SHARED_DYNAMIC(more);
    int *copies = reinterpret_cast<int *>(more);
    const unsigned i = threadIdx.x, other = blockDim.x - 1 - i;
    values[i] = in[i];
    copies[i] = 2 * in[i];
    if (i == 0) sum = 0;
    __syncthreads();
    atomicAdd(&sum, values[other]);
    out[i] = values[other] + copies[other];
    __syncthreads();
    out[blockDim.x + i] = sum;
}

static void run_exchange()
{
    int in[256], got[512], total = 0;
    for (int i = 0; i < 256; i++) {
        in[i] = i * i;
        total += in[i];
    }
    gpu_grid grid = one_block;
    grid.shared_bytes = sizeof in;
    int *dev_in = static_cast<int *>(gpu_put(in, sizeof in));
    int *dev_out = static_cast<int *>(gpu_new(sizeof got));
    gpu_ok(LAUNCH(exchange_kernel, grid, NULL, dev_in, dev_out));
    gpu_take(got, dev_out, sizeof got);
    gpu_ok(cudaFree(dev_in));
    for (int i = 0; i < 256; i++) {
        assert_int_equal(got[i], 3 * in[255 - i]);
        assert_int_equal(got[256 + i], total);
    }
}

__global__ void predicates_kernel(int *out)
{
    const int i = static_cast<int>(threadIdx.x);
    const int count = __syncthreads_count(i % 3 == 0), none = __syncthreads_or(i < 0);
    const int one = __syncthreads_or(i == 77), most = __syncthreads_and(i != 77);
    const int each = __syncthreads_and(i >= 0);
    out[i] =
        count + 1000 * (none != 0) + 2000 * (one != 0) + 4000 * (most != 0) + 8000 * (each != 0);
}

static void run_predicates()
{
    int got[256];
    int *dev = static_cast<int *>(gpu_new(sizeof got));
    gpu_ok(LAUNCH(predicates_kernel, one_block, NULL, dev));
    gpu_take(got, dev, sizeof got);
    for (int i = 0; i < 256; i++)
        assert_int_equal(got[i], 86 + 2000 + 8000);
}

// ---- Warps --------------------------------------------------------------------------------------

enum { SHUFFLES = 10 };

__global__ void shuffles_kernel(int *out)
{
    const int lane = static_cast<int>(threadIdx.x), value = 100 + lane;
    int *at = out + lane * SHUFFLES;
    at[0] = __shfl_sync(whole_warp, value, 5);
    at[1] = __shfl_sync(whole_warp, value, 9, 8); // lane 1 of the own segment of 8
    at[2] = __shfl_xor_sync(whole_warp, value, 3);
    at[3] = __shfl_up_sync(whole_warp, value, 2);
    at[4] = __shfl_up_sync(whole_warp, value, 3, 8);
    at[5] = __shfl_down_sync(whole_warp, value, 2);
    at[6] = __shfl_down_sync(whole_warp, value, 3, 8);
    at[7] =
        static_cast<int>(__shfl_sync(whole_warp, static_cast<long long>(value) << 40, 31) >> 40);
    at[8] = __shfl_xor_sync(whole_warp, value, 8, 8); // earlier segments only
    at[9] = 0;
    if (lane < 16) at[9] = __shfl_xor_sync(0xffffu, value, 8); // a part of the warp
}

static void run_shuffles()
{
    int got[32][SHUFFLES];
    int *dev = static_cast<int *>(gpu_new(sizeof got));
    gpu_ok(LAUNCH(shuffles_kernel, one_warp, NULL, dev));
    gpu_take(got, dev, sizeof got);
    for (int lane = 0; lane < 32; lane++) {
        const int want[SHUFFLES] = {
            105,
            100 + lane / 8 * 8 + 1,
            100 + (lane ^ 3),
            100 + (lane >= 2 ? lane - 2 : lane),
            100 + (lane % 8 >= 3 ? lane - 3 : lane),
            100 + (lane < 30 ? lane + 2 : lane),
            100 + (lane % 8 < 5 ? lane + 3 : lane),
            131,
            100 + (lane / 8 % 2 == 1 ? lane - 8 : lane),
            lane < 16 ? 100 + (lane ^ 8) : 0,
        };
        for (int i = 0; i < SHUFFLES; i++)
            assert_int_equal(got[lane][i], want[i]);
    }
}

__global__ void votes_kernel(unsigned *out)
{
    const unsigned lane = threadIdx.x;
    unsigned *at = out + 4 * lane;
    at[0] = __ballot_sync(whole_warp, lane % 5 == 0);
    at[1] =
        (__any_sync(whole_warp, lane == 7) != 0) + 2 * (__any_sync(whole_warp, lane == 40) != 0);
    at[2] = (__all_sync(whole_warp, lane < 32) != 0) + 2 * (__all_sync(whole_warp, lane < 31) != 0);
    at[3] = __match_any_sync(whole_warp, lane / 12);
}

static void run_votes()
{
    unsigned got[32][4];
    unsigned *dev = static_cast<unsigned *>(gpu_new(sizeof got));
    gpu_ok(LAUNCH(votes_kernel, one_warp, NULL, dev));
    gpu_take(got, dev, sizeof got);
    const unsigned twelves[] = {0xfffu, 0xfff000u, 0xff000000u};
    for (unsigned lane = 0; lane < 32; lane++) {
        assert_int_equal(got[lane][0], 0x42108421u);
        assert_int_equal(got[lane][1], 1);
        assert_int_equal(got[lane][2], 1);
        assert_int_equal(got[lane][3], twelves[lane / 12]);
    }
}

__global__ void sums_kernel(const float *in, float *out)
{
    const float x = in[threadIdx.x];
    out[threadIdx.x] = warp_sum(x);
    out[blockDim.x + threadIdx.x] = block_sum(x);
    out[2 * blockDim.x + threadIdx.x] = block_sum(2 * x); // the array of parts is used again
}

static void run_sums()
{
    for (uint32_t threads = 32; threads <= 1024; threads *= 2) {
        static float in[1024], got[3 * 1024];
        const gpu_grid grid = {{1, 1, 1}, threads, 0};
        for (uint32_t i = 0; i < threads; i++)
            in[i] = static_cast<float>(i % 37) - 5; // sums are exact
        float *dev_in = static_cast<float *>(gpu_put(in, threads * sizeof in[0]));
        float *dev_out = static_cast<float *>(gpu_new(3 * threads * sizeof in[0]));
        gpu_ok(LAUNCH(sums_kernel, grid, NULL, dev_in, dev_out));
        gpu_take(got, dev_out, 3 * threads * sizeof in[0]);
        gpu_ok(cudaFree(dev_in));
        float total = 0;
        for (uint32_t i = 0; i < threads; i++)
            total += in[i];
        for (uint32_t i = 0; i < threads; i++) {
            float warp = 0;
            for (uint32_t j = i / 32 * 32; j < i / 32 * 32 + 32; j++)
                warp += in[j];
            assert_true(got[i] == warp);
            assert_true(got[threads + i] == total && got[2 * threads + i] == 2 * total);
        }
    }
}

// ---- Atomics ------------------------------------------------------------------------------------

enum { ATOMICS = 9 };

__global__ void atomics_kernel(int *sums, float *sum, unsigned long long *large)
{
    const int i = static_cast<int>(threadIdx.x + blockIdx.x * blockDim.x);
    atomicAdd(&sums[0], i);
    atomicSub(&sums[1], i);
    atomicMax(&sums[2], i);
    atomicMin(&sums[3], i);
    atomicOr(&sums[4], 1 << i % 16);
    atomicAnd(&sums[5], ~(1 << i % 16));
    atomicXor(&sums[6], i);
    if (i == 3) atomicExch(&sums[7], 42);
    atomicCAS(&sums[8], i, i + 1); // in whatever order: at least one swap, and it ends above 0
    atomicAdd(sum, 1.0f);
    atomicAdd(large, 1ull << 33);
}

static void run_atomics()
{
    int sums[ATOMICS] = {0, 0, -1, 1000, 0, -1, 0, 7, 0};
    float sum = 0;
    unsigned long long large = 0;
    const gpu_grid grid = {{2, 1, 1}, 64, 0};
    int *dev_sums = static_cast<int *>(gpu_put(sums, sizeof sums));
    float *dev_sum = static_cast<float *>(gpu_put(&sum, sizeof sum));
    unsigned long long *dev_large =
        static_cast<unsigned long long *>(gpu_put(&large, sizeof large));
    gpu_ok(LAUNCH(atomics_kernel, grid, NULL, dev_sums, dev_sum, dev_large));
    gpu_take(sums, dev_sums, sizeof sums);
    gpu_take(&sum, dev_sum, sizeof sum);
    gpu_take(&large, dev_large, sizeof large);
    const int want[] = {8128, -8128, 127, 0, 0xffff, ~0xffff, 0, 42};
    for (int i = 0; i < 8; i++)
        assert_int_equal(sums[i], want[i]);
    assert_true(sums[8] >= 1 && sums[8] <= 128);
    assert_true(sum == 128);
    assert_true(large == 128ull << 33);
}

// The last block to finish adds up what all blocks left.
__global__ void last_block_kernel(const float *in, float *parts, unsigned *ticket, float *out)
{
    SHARED_VALUE(bool, is_last);
    const float sum = block_sum(in[blockIdx.x * blockDim.x + threadIdx.x]);
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = sum;
        __threadfence(); // the part is there before the ticket says so
        is_last = atomicAdd(ticket, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!is_last) return;
    __threadfence(); // the ticket was taken before parts are read
    const float total = block_sum(threadIdx.x < gridDim.x ? parts[threadIdx.x] : 0);
    if (threadIdx.x == 0) *out = total;
}

static void run_last_block()
{
    enum { BLOCKS = 16, THREADS = 64 };
    float in[BLOCKS * THREADS], got = 0, want = 0;
    const unsigned zero = 0;
    const gpu_grid grid = {{BLOCKS, 1, 1}, THREADS, 0};
    for (int i = 0; i < BLOCKS * THREADS; i++)
        want += in[i] = static_cast<float>(i % 11);
    float *dev_in = static_cast<float *>(gpu_put(in, sizeof in));
    float *dev_parts = static_cast<float *>(gpu_new(BLOCKS * sizeof(float)));
    float *dev_out = static_cast<float *>(gpu_new(sizeof got));
    unsigned *dev_ticket = static_cast<unsigned *>(gpu_put(&zero, sizeof zero));
    gpu_ok(LAUNCH(last_block_kernel, grid, NULL, dev_in, dev_parts, dev_ticket, dev_out));
    gpu_take(&got, dev_out, sizeof got);
    gpu_ok(cudaFree(dev_in));
    gpu_ok(cudaFree(dev_parts));
    gpu_ok(cudaFree(dev_ticket));
    assert_true(got == want);
}

// ---- Types --------------------------------------------------------------------------------------

enum { TYPES = 10 };

__global__ void types_kernel(const float *in, unsigned *out)
{
    const int i = static_cast<int>(threadIdx.x);
    const float x = in[i], nan = __uint_as_float(0x7fc00000u);
    unsigned *at = out + TYPES * i;
    at[0] = __half_as_ushort(__float2half_rn(x));
    at[1] = __bfloat16_as_ushort(__float2bfloat16_rn(x));
    at[2] = __float_as_uint(__half2float(__float2half_rn(x)));
    at[3] = __float_as_uint(__bfloat162float(__float2bfloat16_rn(x)));
    at[4] = static_cast<unsigned>(__dp4a(0x01ff7f80, 0x02030405 + i, 7));
    at[5] =
        static_cast<unsigned>(__popc(static_cast<unsigned>(i)) + 100 * __clz(i) + 10000 * __ffs(i));
    at[6] = static_cast<unsigned>(min(i, 5) + 100 * max(i, 7));
    at[7] = __float_as_uint(__ldg(in + i));
    at[8] = __dp4a(0x01ff7f80u, 0x02030405u + static_cast<unsigned>(i), 7u);
    at[9] = (max(x, nan) == x) + 2 * (max(nan, x) == x) + 4 * (min(x, nan) == x) +
            8 * (min(nan, x) == x) + 16 * (max(x, 1.0f) >= 1.0f) + 32 * (min(x, 1.0f) <= 1.0f);
}

static void run_types()
{
    float in[32];
    unsigned got[32][TYPES];
    for (int i = 0; i < 32; i++)
        in[i] = ldexpf(1.0f + static_cast<float>(i) / 31, i * 3 - 40);
    float *dev_in = static_cast<float *>(gpu_put(in, sizeof in));
    unsigned *dev_out = static_cast<unsigned *>(gpu_new(sizeof got));
    gpu_ok(LAUNCH(types_kernel, one_warp, NULL, dev_in, dev_out));
    gpu_take(got, dev_out, sizeof got);
    gpu_ok(cudaFree(dev_in));
    for (int i = 0; i < 32; i++) {
        const float halves[] = {half_to_float(half_from_float(in[i])),
                                bf16_to_float(bf16_from_float(in[i]))};
        assert_int_equal(got[i][0], half_from_float(in[i]));
        assert_int_equal(got[i][1], bf16_from_float(in[i]));
        assert_memory_equal(&got[i][2], halves, sizeof halves);
        assert_int_equal(got[i][4], static_cast<unsigned>(2 - 3 + 127 * 4 - 128 * (5 + i) + 7));
        const int clz = i == 0 ? 32 : __builtin_clz(static_cast<unsigned>(i));
        assert_int_equal(got[i][5], __builtin_popcount(static_cast<unsigned>(i)) + 100 * clz +
                                        10000 * __builtin_ffs(i));
        assert_int_equal(got[i][6], (i < 5 ? i : 5) + 100 * (i > 7 ? i : 7));
        assert_memory_equal(&got[i][7], &in[i], sizeof in[i]);
        assert_int_equal(got[i][8], 2 + 255 * 3 + 127 * 4 + 128 * (5 + i) + 7);
        assert_int_equal(got[i][9], 63);
    }
}

GPU_TEST(ids)
GPU_TEST(exchange)
GPU_TEST(predicates)
GPU_TEST(shuffles)
GPU_TEST(votes)
GPU_TEST(sums)
GPU_TEST(last_block)
GPU_TEST(types)

// The swaps of sums[8] depend on the order, which the mode that compares orders would say.
static void test_atomics(void **state)
{
    (void)state;
    for (size_t i = 0; i < emu_n_modes; i++) {
        if (emu_modes[i].swap) continue;
        emu_begin(&emu_modes[i]);
        run_atomics();
        assert_int_equal(emu_end(), 0);
    }
}

int main()
{
    const CMUnitTest tests[] = {
        cmocka_unit_test(test_ids),        cmocka_unit_test(test_exchange),
        cmocka_unit_test(test_predicates), cmocka_unit_test(test_shuffles),
        cmocka_unit_test(test_votes),      cmocka_unit_test(test_sums),
        cmocka_unit_test(test_atomics),    cmocka_unit_test(test_last_block),
        cmocka_unit_test(test_types),
    };
    return gpu_run("t_dialect", tests, sizeof tests / sizeof tests[0]);
}
