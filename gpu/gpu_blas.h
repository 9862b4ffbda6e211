// cuBLAS, looked for at run time: a build with CUDA starts on a machine without it.

#ifndef FATHOM_GPU_GPU_BLAS_H
#define FATHOM_GPU_GPU_BLAS_H

#include <cublas_v2.h>

#include "src/base/status.h"

struct gpu_blas {
    void *module; // NULL: there is none, and nothing below may be called
    cublasHandle_t handle;
    cublasStatus_t (*create)(cublasHandle_t *);
    cublasStatus_t (*destroy)(cublasHandle_t);
    cublasStatus_t (*set_stream)(cublasHandle_t, cudaStream_t);
    cublasStatus_t (*set_workspace)(cublasHandle_t, void *, size_t);
    cublasStatus_t (*gemm)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int m, int n,
                           int k, const void *alpha, const void *a, cudaDataType a_type, int lda,
                           const void *b, cudaDataType b_type, int ldb, const void *beta, void *c,
                           cudaDataType c_type, int ldc, cublasComputeType_t, cublasGemmAlgo_t);
};

// Finds the library by its name and sets all but the handle. EUNSUPPORTED, and says why, when there
// is none or it lacks something.
FATHOM_MUST_USE fathom_status gpu_blas_find(const char *library, struct gpu_blas *blas);
// The name of the version whose headers this was built with.
#define GPU_BLAS_LIBRARY "libcublas.so.13"

// Gives it a handle that works on the stream, in dev_workspace: so it allocates nothing later, and
// the same product gives the same bits.
FATHOM_MUST_USE fathom_status gpu_blas_open(struct gpu_blas *blas, cudaStream_t stream,
                                            void *dev_workspace, size_t workspace_bytes);
// Zeros are fine. The library stays loaded: it does not like to be unloaded.
void gpu_blas_close(struct gpu_blas *blas);

#endif
