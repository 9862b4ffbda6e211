// Statuses of CUDA and cuBLAS: the one place that knows what their errors mean to a user.

#include "gpu/gpu_error.h"

fathom_status gpu_status(cudaError_t error, const char *call)
{
    if (error == cudaSuccess) return FATHOM_OK;
    // The runtime keeps it for the next to ask, who has another question.
    (void)cudaGetLastError();
    const char *name = cudaGetErrorName(error), *text = cudaGetErrorString(error);
    if (error == cudaErrorMemoryAllocation)
        return status_set(FATHOM_ENOMEM,
                          "%s: %s (%s): end other programs on the GPU, or use device \"cpu\" "
                          "(--device)",
                          call, text, name);
    return status_set(FATHOM_EDEVICE, "%s: %s (%s)", call, text, name);
}

static const char *blas_text(cublasStatus_t error)
{
    switch (error) {
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "it could not be initialised";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "out of memory";
    case CUBLAS_STATUS_ARCH_MISMATCH:
        return "it does not know this GPU";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "the GPU failed";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "an argument is not valid";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "these types are not supported";
    default:
        return "it failed";
    }
}

fathom_status gpu_blas_status(cublasStatus_t error, const char *call)
{
    if (error == CUBLAS_STATUS_SUCCESS) return FATHOM_OK;
    const fathom_status status =
        error == CUBLAS_STATUS_ALLOC_FAILED ? FATHOM_ENOMEM : FATHOM_EDEVICE;
    return status_set(status, "%s: %s (cublasStatus_t %d)", call, blas_text(error), (int)error);
}
