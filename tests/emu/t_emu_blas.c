// The emulated cuBLAS: C = alpha op(A) op(B) + beta C over column-major matrices, as its manual has
// it; types, transposes, leading dimensions, batches, and what it refuses.

#include "tests/gpu/gpu_rig.h"

#include <math.h>

#include <cublas_v2.h>

#include "src/base/half.h"
#include "src/base/rng.h"

enum { M = 5, N = 3, K = 7, BATCHES = 2, LD_MAX = 10, COUNT = BATCHES * LD_MAX * LD_MAX };

static size_t width_of(cudaDataType type)
{
    return type == CUDA_R_32F ? sizeof(float) : sizeof(uint16_t);
}

static float load(const void *at, cudaDataType type, size_t i)
{
    if (type == CUDA_R_32F) return ((const float *)at)[i];
    const uint16_t bits = ((const uint16_t *)at)[i];
    return type == CUDA_R_16F ? half_to_float(bits) : bf16_to_float(bits);
}

static void store(void *at, cudaDataType type, size_t i, float x)
{
    if (type == CUDA_R_32F)
        ((float *)at)[i] = x;
    else
        ((uint16_t *)at)[i] = type == CUDA_R_16F ? half_from_float(x) : bf16_from_float(x);
}

// A matrix of the host and its copy on the device, exactly as long as the last element needs.
struct matrix {
    float host[COUNT]; // holds the values
    cudaDataType type;
    int ld;
    long long stride;
    size_t count;
    void *dev;
};

static void make(struct matrix *matrix, struct rng *rng, cudaDataType type, int n_rows, int n_cols)
{
    matrix->type = type;
    matrix->ld = n_rows + (int)rng_below(rng, 3);
    matrix->stride = matrix->ld * n_cols + 1;
    matrix->count = (size_t)(matrix->stride * (BATCHES - 1) + matrix->ld * (n_cols - 1) + n_rows);
    char bytes[COUNT * sizeof(float)];
    for (size_t i = 0; i < matrix->count; i++) {
        store(bytes, type, i, rng_normal(rng));
        matrix->host[i] = load(bytes, type, i);
    }
    matrix->dev = gpu_put(bytes, matrix->count * width_of(type));
}

static double element(const struct matrix *matrix, bool is_turned, int batch, int row, int column)
{
    const int at = is_turned ? column + row * matrix->ld : row + column * matrix->ld;
    return matrix->host[batch * matrix->stride + at];
}

static void check_product(struct rng *rng, cublasHandle_t handle, cudaDataType type,
                          cudaDataType c_type, int turns, float beta)
{
    const bool turn_a = turns & 1, turn_b = turns & 2;
    const float alpha = 0.5f;
    struct matrix a, b, c;
    make(&a, rng, type, turn_a ? K : M, turn_a ? M : K);
    make(&b, rng, type, turn_b ? N : K, turn_b ? K : N);
    make(&c, rng, c_type, M, N);
    if (beta == 0) // C is not read then
        gpu_ok(cudaMemset(c.dev, 0xff, c.count * width_of(c_type)));
    assert_int_equal(cublasGemmStridedBatchedEx(handle, turn_a ? CUBLAS_OP_T : CUBLAS_OP_N,
                                                turn_b ? CUBLAS_OP_T : CUBLAS_OP_N, M, N, K, &alpha,
                                                a.dev, type, a.ld, a.stride, b.dev, type, b.ld,
                                                b.stride, &beta, c.dev, c_type, c.ld, c.stride,
                                                BATCHES, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                     CUBLAS_STATUS_SUCCESS);
    char got[COUNT * sizeof(float)];
    gpu_take(got, c.dev, c.count * width_of(c_type));
    const double u = c_type == CUDA_R_32F ? 0 : c_type == CUDA_R_16F ? 0x1p-11 : 0x1p-8;
    for (int i = 0; i < BATCHES * M * N; i++) {
        const int batch = i / (M * N), row = i % M, column = i / M % N;
        double want = beta == 0 ? 0 : beta * element(&c, false, batch, row, column);
        double size = fabs(want);
        for (int k = 0; k < K; k++) {
            const double term =
                alpha * element(&a, turn_a, batch, row, k) * element(&b, turn_b, batch, k, column);
            want += term;
            size += fabs(term);
        }
        const size_t at = (size_t)(batch * c.stride + row + column * c.ld);
        const double error = fabs(load(got, c_type, at) - want);
        assert_true(error <= (K + 2) * 0x1p-24 * size + u * fabs(want));
    }
    gpu_ok(cudaFree(a.dev));
    gpu_ok(cudaFree(b.dev));
}

static void run_products(void)
{
    static const cudaDataType types[] = {CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF};
    struct rng rng;
    cublasHandle_t handle = NULL;
    rng_init(&rng, 8);
    assert_int_equal(cublasCreate(&handle), CUBLAS_STATUS_SUCCESS);
    for (int type = 0; type < 3; type++)
        for (int c_type = 0; c_type < 3; c_type++)
            for (int turns = 0; turns < 4 && (c_type == 0 || c_type == type); turns++)
                for (int beta = 0; beta < 2; beta++)
                    check_product(&rng, handle, types[type], types[c_type], turns, (float)beta);
    assert_int_equal(cublasDestroy(handle), CUBLAS_STATUS_SUCCESS);
}

GPU_TEST(products)

// One product of [2, 2] matrices after the other, in a stream of the caller's.
static void run_stream(void)
{
    const float ones[4] = {1, 1, 1, 1}, one = 1, zero = 0;
    float got[4];
    cublasHandle_t handle = NULL;
    cudaStream_t stream = NULL;
    float *a = gpu_put(ones, sizeof ones), *b = gpu_new(sizeof ones), *c = gpu_new(sizeof ones);
    gpu_ok(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    assert_int_equal(cublasCreate(&handle), CUBLAS_STATUS_SUCCESS);
    assert_int_equal(cublasSetStream(handle, stream), CUBLAS_STATUS_SUCCESS);
    assert_int_equal(cublasSetWorkspace(handle, c, sizeof ones), CUBLAS_STATUS_SUCCESS);
    assert_int_equal(cublasSetWorkspace(handle, got, sizeof got), CUBLAS_STATUS_INVALID_VALUE);
    for (int i = 0; i < 2; i++)
        assert_int_equal(cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &one, a,
                                      CUDA_R_32F, 2, i == 0 ? a : b, CUDA_R_32F, 2, &zero,
                                      i == 0 ? b : c, CUDA_R_32F, 2, CUBLAS_COMPUTE_32F,
                                      CUBLAS_GEMM_DEFAULT),
                         CUBLAS_STATUS_SUCCESS);
    gpu_ok(cudaStreamSynchronize(stream));
    gpu_take(got, c, sizeof got);
    for (int i = 0; i < 4; i++)
        assert_true(got[i] == 4);
    assert_int_equal(cublasDestroy(handle), CUBLAS_STATUS_SUCCESS);
    gpu_ok(cudaStreamDestroy(stream));
    gpu_ok(cudaFree(a));
    gpu_ok(cudaFree(b));
}

GPU_TEST(stream)

static cublasStatus_t try_product(cublasHandle_t handle, int lda, cudaDataType b_type,
                                  cudaDataType c_type, cublasComputeType_t compute)
{
    const float one = 1;
    return cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &one, NULL, CUDA_R_32F, lda,
                        NULL, b_type, 2, &one, NULL, c_type, 2, compute, CUBLAS_GEMM_DEFAULT);
}

static void test_refusals(void **state)
{
    (void)state;
    struct emu_mode mode = {.name = "failing", .fail_call = 3};
    cublasHandle_t handle = NULL;
    emu_begin(&mode);
    assert_int_equal(cublasCreate(&handle), CUBLAS_STATUS_SUCCESS);
    assert_int_equal(try_product(handle, 1, CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F),
                     CUBLAS_STATUS_INVALID_VALUE);
    assert_int_equal(try_product(handle, 2, CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F),
                     CUBLAS_STATUS_EXECUTION_FAILED);
    assert_int_equal(try_product(handle, 2, CUDA_R_16F, CUDA_R_32F, CUBLAS_COMPUTE_32F),
                     CUBLAS_STATUS_NOT_SUPPORTED);
    assert_int_equal(try_product(handle, 2, CUDA_R_32F, CUDA_R_16BF, CUBLAS_COMPUTE_32F),
                     CUBLAS_STATUS_NOT_SUPPORTED);
    assert_int_equal(try_product(handle, 2, CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_16F),
                     CUBLAS_STATUS_NOT_SUPPORTED);
    assert_int_equal(cublasDestroy(handle), CUBLAS_STATUS_SUCCESS);
    assert_int_equal(emu_end(), 0);
    mode.fail_call = 1;
    emu_begin(&mode);
    assert_int_equal(cublasCreate(&handle), CUBLAS_STATUS_ALLOC_FAILED);
    assert_int_equal(emu_end(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_refusals),
    };
    return check_run("t_emu_blas", tests, sizeof tests / sizeof tests[0]);
}
