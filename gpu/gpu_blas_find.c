// Loads cuBLAS.

#include "gpu/gpu_blas.h"

#include <dlfcn.h>
#include <string.h>

fathom_status gpu_blas_find(const char *library, struct gpu_blas *blas)
{
    const struct {
        const char *name;
        void *at; // of a pointer to a function
    } functions[] = {
        {"cublasCreate_v2", &blas->create},
        {"cublasDestroy_v2", &blas->destroy},
        {"cublasSetStream_v2", &blas->set_stream},
        {"cublasSetWorkspace_v2", &blas->set_workspace},
        {"cublasGemmEx", &blas->gemm},
    };
    void *handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) return status_set(FATHOM_EUNSUPPORTED, "%s", dlerror());
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        void *symbol = dlsym(handle, functions[i].name);
        if (symbol == NULL) {
            dlclose(handle);
            return status_set(FATHOM_EUNSUPPORTED, "%s has no %s", library, functions[i].name);
        }
        memcpy(functions[i].at, &symbol, sizeof symbol); // C has no cast for that
    }
    blas->module = handle;
    return FATHOM_OK;
}
