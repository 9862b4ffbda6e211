// The table of cuBLAS's functions. Where they come from is gpu_blas_find.c: the system's library,
// or in the tests the emulation.

#include "gpu/gpu_blas.h"

#include "gpu/gpu_error.h"

fathom_status gpu_blas_open(struct gpu_blas *blas, cudaStream_t stream, void *dev_workspace,
                            size_t workspace_bytes)
{
    FATHOM_TRY(gpu_blas_status(blas->create(&blas->handle), "cublasCreate"));
    FATHOM_TRY(gpu_blas_status(blas->set_stream(blas->handle, stream), "cublasSetStream"));
    return gpu_blas_status(blas->set_workspace(blas->handle, dev_workspace, workspace_bytes),
                           "cublasSetWorkspace");
}

void gpu_blas_close(struct gpu_blas *blas)
{
    if (blas->handle != NULL) (void)blas->destroy(blas->handle);
    *blas = (struct gpu_blas){0};
}
