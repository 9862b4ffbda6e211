// The products of cuBLAS that the device uses, as plain loops over its column-major matrices:
// C = alpha op(A) op(B) + beta C, where op(A) is m x k and op(B) is k x n, and element (i, j) of a
// stored matrix with leading dimension ld lies at i + j ld. Compiled with the sanitizers, so that
// what the leading dimensions reach is checked.

#include <stdlib.h>

#include <cublas_v2.h>

#include "src/base/half.h"
#include "tests/emu/emu_private.h"

struct cublasContext {
    cudaStream_t stream;
};

struct matrix {
    const char *at;
    cudaDataType type;
    int ld;
    bool is_turned; // op is the transpose
    long long stride;
};

struct product {
    int m, n, k, n_batches;
    float alpha, beta;
    struct matrix a, b, c;
};

static bool is_known(cudaDataType type)
{
    return type == CUDA_R_32F || type == CUDA_R_16F || type == CUDA_R_16BF;
}

static const char *element(const struct matrix *matrix, int batch, int row, int column)
{
    const long long width = matrix->type == CUDA_R_32F ? 4 : 2;
    const long long place = matrix->is_turned ? column + (long long)row * matrix->ld
                                              : row + (long long)column * matrix->ld;
    return matrix->at + (batch * matrix->stride + place) * width;
}

static float load(const struct matrix *matrix, int batch, int row, int column)
{
    const void *at = element(matrix, batch, row, column);
    if (matrix->type == CUDA_R_32F) return *(const float *)at;
    const uint16_t bits = *(const uint16_t *)at;
    return matrix->type == CUDA_R_16F ? half_to_float(bits) : bf16_to_float(bits);
}

static void store(const struct matrix *matrix, int batch, int row, int column, float value)
{
    void *at = (void *)(size_t)element(matrix, batch, row, column);
    if (matrix->type == CUDA_R_32F)
        *(float *)at = value;
    else
        *(uint16_t *)at =
            matrix->type == CUDA_R_16F ? half_from_float(value) : bf16_from_float(value);
}

static void run_product(void *arg)
{
    const struct product *p = arg;
    for (int batch = 0; batch < p->n_batches; batch++)
        for (int j = 0; j < p->n; j++)
            for (int i = 0; i < p->m; i++) {
                float sum = 0;
                for (int l = 0; l < p->k; l++)
                    sum += load(&p->a, batch, i, l) * load(&p->b, batch, l, j);
                // With beta 0, C is not read: it may hold anything.
                float old = p->beta != 0 ? p->beta * load(&p->c, batch, i, j) : 0;
                store(&p->c, batch, i, j, p->alpha * sum + old);
            }
}

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle)
{
    cudaError_t status = emu_enter(cudaErrorUnknown);
    if (status == cudaSuccess) {
        *handle = calloc(1, sizeof **handle);
        if (*handle == NULL) emu_fail("no memory for a handle");
        emu_count_handles(1);
    }
    emu_unlock();
    return status == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle)
{
    emu_lock();
    emu_count_handles(-1);
    free(handle);
    emu_unlock();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream)
{
    cudaError_t status = emu_enter(cudaErrorUnknown);
    if (status == cudaSuccess) handle->stream = stream;
    emu_unlock();
    return status == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INTERNAL_ERROR;
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void *workspace, size_t bytes)
{
    (void)handle;
    cudaError_t status = emu_enter(cudaErrorUnknown);
    const struct emu_memory *memory = emu_memory_find(workspace);
    emu_unlock();
    if (status != cudaSuccess) return CUBLAS_STATUS_INTERNAL_ERROR;
    return bytes == 0 || (memory != NULL && memory->where == EMU_DEVICE)
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_INVALID_VALUE;
}

static cublasStatus_t queue(cublasHandle_t handle, const struct product *wanted)
{
    const struct product *w = wanted;
    emu_check_pointer("cublasGemm", 0, w->a.at);
    emu_check_pointer("cublasGemm", 1, w->b.at);
    emu_check_pointer("cublasGemm", 2, w->c.at);
    if (w->m < 0 || w->n < 0 || w->k < 0 || w->a.ld < (w->a.is_turned ? w->k : w->m) ||
        w->b.ld < (w->b.is_turned ? w->n : w->k) || w->c.ld < w->m)
        return CUBLAS_STATUS_INVALID_VALUE;
    struct product *product = malloc(sizeof *product);
    if (product == NULL) emu_fail("no memory for a product");
    *product = *wanted;
    const struct emu_work work = {"cublasGemm", run_product, free, product};
    emu_stream_push(handle->stream, &work);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t op_a,
                                          cublasOperation_t op_b, int m, int n, int k,
                                          const void *alpha, const void *a, cudaDataType a_type,
                                          int lda, long long stride_a, const void *b,
                                          cudaDataType b_type, int ldb, long long stride_b,
                                          const void *beta, void *c, cudaDataType c_type, int ldc,
                                          long long stride_c, int n_batches,
                                          cublasComputeType_t compute, cublasGemmAlgo_t algorithm)
{
    (void)algorithm;
    if (a_type != b_type || !is_known(a_type) || compute != CUBLAS_COMPUTE_32F ||
        (c_type != a_type && c_type != CUDA_R_32F))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    const struct product product = {
        .m = m,
        .n = n,
        .k = k,
        .n_batches = n_batches,
        .alpha = *(const float *)alpha,
        .beta = *(const float *)beta,
        .a = {a, a_type, lda, op_a != CUBLAS_OP_N, stride_a},
        .b = {b, b_type, ldb, op_b != CUBLAS_OP_N, stride_b},
        .c = {c, c_type, ldc, false, stride_c},
    };
    cublasStatus_t status = CUBLAS_STATUS_EXECUTION_FAILED;
    if (emu_enter(cudaErrorUnknown) == cudaSuccess) status = queue(handle, &product);
    emu_unlock();
    return status;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                            int m, int n, int k, const void *alpha, const void *a,
                            cudaDataType a_type, int lda, const void *b, cudaDataType b_type,
                            int ldb, const void *beta, void *c, cudaDataType c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t algorithm)
{
    return cublasGemmStridedBatchedEx(handle, op_a, op_b, m, n, k, alpha, a, a_type, lda, 0, b,
                                      b_type, ldb, 0, beta, c, c_type, ldc, 0, 1, compute,
                                      algorithm);
}
