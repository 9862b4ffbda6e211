// What CUDA and cuBLAS return, as statuses that name the call.

#ifndef FATHOM_GPU_GPU_ERROR_H
#define FATHOM_GPU_GPU_ERROR_H

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include "src/base/status.h"

// Of a call of that name. Memory that gave out is ENOMEM, all else EDEVICE. Kernels run later than
// they are called, so a fault of one may come out of any call behind it.
fathom_status gpu_status(cudaError_t error, const char *call);
fathom_status gpu_blas_status(cublasStatus_t error, const char *call);

// Calls, and returns on error: GPU_TRY(cudaStreamSynchronize, stream).
#define GPU_TRY(call, ...)          FATHOM_TRY(gpu_status(call(__VA_ARGS__), #call))
#define GPU_CHECK(label, call, ...) FATHOM_CHECK(gpu_status(call(__VA_ARGS__), #call), label)

#endif
