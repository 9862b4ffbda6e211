// Of the dialect: asynchronous copies, ldmatrix and mma.sync. The layouts of fragments are written
// here element by element, as the PTX manual has them, and not as the emulation computes them; that
// both are right, only a device can tell.

#include "tests/gpu/gpu_rig.h"

#include <math.h>

#include "gpu/dialect.cuh"

extern "C" {
#include "src/base/half.h"
#include "src/base/rng.h"
}

static const gpu_grid one_warp = {{1, 1, 1}, 32, 0};

// ---- Asynchronous copies ------------------------------------------------------------------------

enum { TILE = 64, TILE_WORDS = 4 * TILE };

// Sums tiles, the next of which is under way while one is read: the loop of every kernel here that
// streams. `n` is the words there are; beyond, tiles are filled up with zeros.
__global__ void pipeline_kernel(const int *in, int n, int n_tiles, int *out)
{
    SHARED_ARRAY(int4, tiles, 2 * TILE);
    const int i = static_cast<int>(threadIdx.x);
    int sum = 0;
    dev_copy16(&tiles[i], in + 4 * i, 4 * i < n);
    dev_copy_commit();
    for (int t = 0; t < n_tiles; t++) {
        const int next = (t + 1) * TILE_WORDS + 4 * i;
        if (t + 1 < n_tiles)
            dev_copy16(&tiles[(t + 1) % 2 * TILE + i], next < n ? in + next : in, next < n);
        dev_copy_commit();
        dev_copy_wait<1>();
        __syncthreads(); // the tile is there for all threads
        const int4 other = tiles[t % 2 * TILE + TILE - 1 - i];
        sum += (t + 1) * (other.x + 2 * other.y + 3 * other.z + 4 * other.w);
        __syncthreads(); // all have read it before the next copies write it
    }
    out[i] = sum;
}

static void run_pipeline()
{
    enum { N_MAX = 5 * TILE_WORDS };
    static const int counts[] = {4, 64, 4 * TILE - 4, 4 * TILE, 4 * TILE + 4, 776, N_MAX};
    const gpu_grid grid = {{1, 1, 1}, TILE, 0};
    static int in[N_MAX];
    for (int i = 0; i < N_MAX; i++)
        in[i] = i * 7 % 1001;
    for (int n : counts) {
        const int n_tiles = (n + TILE_WORDS - 1) / TILE_WORDS;
        int got[TILE];
        int *dev_in = static_cast<int *>(gpu_put(in, sizeof in[0] * static_cast<size_t>(n)));
        int *dev_out = static_cast<int *>(gpu_new(sizeof got));
        gpu_ok(LAUNCH(pipeline_kernel, grid, NULL, dev_in, n, n_tiles, dev_out));
        gpu_take(got, dev_out, sizeof got);
        gpu_ok(cudaFree(dev_in));
        for (int i = 0; i < TILE; i++) {
            int want = 0;
            for (int t = 0; t < n_tiles; t++)
                for (int j = 0; j < 4; j++) {
                    const int at = t * TILE_WORDS + 4 * (TILE - 1 - i) + j;
                    if (at < n) want += (t + 1) * (j + 1) * in[at];
                }
            assert_int_equal(got[i], want);
        }
    }
}

// ---- ldmatrix -----------------------------------------------------------------------------------

// Rows lie 24 values apart, as padded rows do.
__global__ void load_matrix_kernel(const unsigned short *in, unsigned *out)
{
    SHARED_ARRAY(uint4, rows, 32 * 3);
    unsigned short *values = reinterpret_cast<unsigned short *>(rows);
    const unsigned lane = threadIdx.x;
    for (unsigned i = 0; i < 8; i++)
        values[24 * lane + i] = in[8 * lane + i];
    __syncwarp();
    unsigned r[4], turned[4];
    dev_load_matrix(r, &rows[3 * lane]);
    dev_load_matrix_turned(turned, &rows[3 * lane]);
    for (unsigned m = 0; m < 4; m++) {
        out[8 * lane + m] = r[m];
        out[8 * lane + 4 + m] = turned[m];
    }
}

static void run_load_matrix()
{
    unsigned short in[32][8];
    unsigned got[32][8];
    for (int row = 0; row < 32; row++)
        for (int column = 0; column < 8; column++)
            in[row][column] = static_cast<unsigned short>(100 * row + column);
    unsigned short *dev_in = static_cast<unsigned short *>(gpu_put(in, sizeof in));
    unsigned *dev_out = static_cast<unsigned *>(gpu_new(sizeof got));
    gpu_ok(LAUNCH(load_matrix_kernel, one_warp, NULL, dev_in, dev_out));
    gpu_take(got, dev_out, sizeof got);
    gpu_ok(cudaFree(dev_in));
    for (int lane = 0; lane < 32; lane++)
        for (int m = 0; m < 4; m++) {
            const int row = lane / 4, column = lane % 4 * 2;
            assert_int_equal(got[lane][m],
                             in[8 * m + row][column] | in[8 * m + row][column + 1] << 16);
            assert_int_equal(got[lane][4 + m],
                             in[8 * m + column][row] | in[8 * m + column + 1][row] << 16);
        }
}

// ---- mma.sync -----------------------------------------------------------------------------------

// Element i of a lane's fragments, m16n8k16, 16-bit values.
static __device__ int a_row(int lane, int i)
{
    return (i >= 0 && i < 2) || (i >= 4 && i < 6) ? lane >> 2 : (lane >> 2) + 8;
}

static __device__ int a_column(int lane, int i)
{
    return i < 4 ? lane % 4 * 2 + (i & 1) : lane % 4 * 2 + (i & 1) + 8;
}

static __device__ int b_row(int lane, int i)
{
    return i < 2 ? lane % 4 * 2 + (i & 1) : lane % 4 * 2 + (i & 1) + 8;
}

static __device__ int c_row(int lane, int i)
{
    return i < 2 ? lane >> 2 : (lane >> 2) + 8;
}

static __device__ int c_column(int lane, int i)
{
    return lane % 4 * 2 + (i & 1);
}

// c [16, 8] = c + a [16, 16] b [16, 8], all row-major. With is_loaded the fragment of a comes by
// ldmatrix.
template <bool is_bf16, bool is_loaded>
__global__ void multiply_kernel(const unsigned short *a, const unsigned short *b, float *c)
{
    SHARED_ARRAY(uint4, rows, 32); // of a: two of them a row
    const int lane = static_cast<int>(threadIdx.x);
    unsigned ra[4] = {0, 0, 0, 0}, rb[2] = {0, 0};
    float rc[4];
    if (is_loaded) {
        unsigned short *values = reinterpret_cast<unsigned short *>(rows);
        for (int i = 0; i < 8; i++)
            values[8 * lane + i] = a[8 * lane + i];
        __syncwarp();
        dev_load_matrix(ra, &rows[lane % 16 * 2 + lane / 16]);
    } else {
        for (int i = 0; i < 8; i++)
            ra[i / 2] |= static_cast<unsigned>(a[16 * a_row(lane, i) + a_column(lane, i)])
                         << 16 * (i % 2);
    }
    for (int i = 0; i < 4; i++) {
        rb[i / 2] |= static_cast<unsigned>(b[8 * b_row(lane, i) + (lane >> 2)]) << 16 * (i % 2);
        rc[i] = c[8 * c_row(lane, i) + c_column(lane, i)];
    }
    if (is_bf16)
        dev_mma_bf16(rc, ra, rb);
    else
        dev_mma_f16(rc, ra, rb);
    for (int i = 0; i < 4; i++)
        c[8 * c_row(lane, i) + c_column(lane, i)] = rc[i];
}

template <bool is_bf16, bool is_loaded>
static void check_multiply(rng *rng)
{
    unsigned short a[16][16], b[16][8];
    float c[16][8], got[16][8];
    for (int i = 0; i < 256; i++)
        a[i / 16][i % 16] = (is_bf16 ? bf16_from_float : half_from_float)(rng_normal(rng));
    for (int i = 0; i < 128; i++) {
        b[i / 8][i % 8] = (is_bf16 ? bf16_from_float : half_from_float)(rng_normal(rng));
        c[i / 8][i % 8] = rng_normal(rng);
    }
    unsigned short *dev_a = static_cast<unsigned short *>(gpu_put(a, sizeof a));
    unsigned short *dev_b = static_cast<unsigned short *>(gpu_put(b, sizeof b));
    float *dev_c = static_cast<float *>(gpu_put(c, sizeof c));
    gpu_ok(LAUNCH((multiply_kernel<is_bf16, is_loaded>), one_warp, NULL, dev_a, dev_b, dev_c));
    gpu_take(got, dev_c, sizeof got);
    gpu_ok(cudaFree(dev_a));
    gpu_ok(cudaFree(dev_b));
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 8; column++) {
            double want = c[row][column], size = fabs(want);
            for (int k = 0; k < 16; k++) {
                const float x = (is_bf16 ? bf16_to_float : half_to_float)(a[row][k]);
                const float y = (is_bf16 ? bf16_to_float : half_to_float)(b[k][column]);
                want += static_cast<double>(x) * y;
                size += fabs(static_cast<double>(x) * y);
            }
            // 17 sums, which the device may cut off where it should round: an ulp each.
            assert_true(fabs(got[row][column] - want) <= 17 * 0x1p-23 * size);
        }
}

static void run_multiply()
{
    rng rng;
    rng_init(&rng, 3);
    check_multiply<true, false>(&rng);
    check_multiply<true, true>(&rng);
    check_multiply<false, false>(&rng);
    check_multiply<false, true>(&rng);
}

// m16n8k32 of signed bytes, exact.
__global__ void multiply_s8_kernel(const signed char *a, const signed char *b, int *c)
{
    const int lane = static_cast<int>(threadIdx.x), group = lane >> 2, place = lane % 4;
    unsigned ra[4] = {0, 0, 0, 0}, rb[2] = {0, 0};
    int rc[4];
    for (int i = 0; i < 16; i++) {
        const int row = (i >= 0 && i < 4) || (i >= 8 && i < 12) ? group : group + 8;
        const int column = i < 8 ? place * 4 + (i & 3) : place * 4 + (i & 3) + 16;
        ra[i / 4] |= static_cast<unsigned>(a[32 * row + column] & 0xff) << 8 * (i % 4);
    }
    for (int i = 0; i < 8; i++) {
        const int row = i < 4 ? place * 4 + (i & 3) : place * 4 + (i & 3) + 16;
        rb[i / 4] |= static_cast<unsigned>(b[8 * row + group] & 0xff) << 8 * (i % 4);
    }
    for (int i = 0; i < 4; i++)
        rc[i] = c[8 * c_row(lane, i) + c_column(lane, i)];
    dev_mma_s8(rc, ra, rb);
    for (int i = 0; i < 4; i++)
        c[8 * c_row(lane, i) + c_column(lane, i)] = rc[i];
}

static void run_multiply_s8()
{
    signed char a[16][32], b[32][8];
    int c[16][8], got[16][8];
    rng rng;
    rng_init(&rng, 4);
    for (int i = 0; i < 512; i++)
        a[i / 32][i % 32] = static_cast<signed char>(rng_below(&rng, 256));
    for (int i = 0; i < 256; i++)
        b[i / 8][i % 8] = static_cast<signed char>(rng_below(&rng, 256));
    for (int i = 0; i < 128; i++)
        c[i / 8][i % 8] = static_cast<int>(rng_below(&rng, 2000)) - 1000;
    signed char *dev_a = static_cast<signed char *>(gpu_put(a, sizeof a));
    signed char *dev_b = static_cast<signed char *>(gpu_put(b, sizeof b));
    int *dev_c = static_cast<int *>(gpu_put(c, sizeof c));
    gpu_ok(LAUNCH(multiply_s8_kernel, one_warp, NULL, dev_a, dev_b, dev_c));
    gpu_take(got, dev_c, sizeof got);
    gpu_ok(cudaFree(dev_a));
    gpu_ok(cudaFree(dev_b));
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < 8; column++) {
            int want = c[row][column];
            for (int k = 0; k < 32; k++)
                want += a[row][k] * b[k][column];
            assert_int_equal(got[row][column], want);
        }
}

GPU_TEST(pipeline)
GPU_TEST(load_matrix)
GPU_TEST(multiply)
GPU_TEST(multiply_s8)

int main()
{
    const CMUnitTest tests[] = {
        cmocka_unit_test(test_pipeline),
        cmocka_unit_test(test_load_matrix),
        cmocka_unit_test(test_multiply),
        cmocka_unit_test(test_multiply_s8),
    };
    return gpu_run("t_fragments", tests, sizeof tests / sizeof tests[0]);
}
