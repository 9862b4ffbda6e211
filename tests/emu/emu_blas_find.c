// In place of gpu/gpu_blas_find.c: the emulation's cuBLAS is part of the test.

#include "gpu/gpu_blas.h"
#include "tests/emu/emu_private.h"

fathom_status gpu_blas_find(const char *library, struct gpu_blas *blas)
{
    if (emu_mode()->lacks_blas) return status_set(FATHOM_EUNSUPPORTED, "%s: not here", library);
    blas->module = blas;
    blas->create = cublasCreate_v2;
    blas->destroy = cublasDestroy_v2;
    blas->set_stream = cublasSetStream_v2;
    blas->set_workspace = cublasSetWorkspace_v2;
    blas->gemm = cublasGemmEx;
    return FATHOM_OK;
}
