// What planted kernels share: all run as BLOCKS blocks of THREADS threads, an integer each.

#ifndef FATHOM_TESTS_EMU_BUGS_CUH
#define FATHOM_TESTS_EMU_BUGS_CUH

#include "tests/emu/bugs.h"

#include "gpu/dialect.cuh"
#include "gpu/warp.cuh"
#include "tests/gpu/gpu_rig.h"

enum { BLOCKS = 2, THREADS = 64, COUNT = BLOCKS * THREADS };

static __device__ inline int index()
{
    return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
}

static __device__ inline int thread()
{
    return static_cast<int>(threadIdx.x);
}

static inline bool run_kernel(const bug *bug, bool is_planted)
{
    const gpu_grid grid = {{BLOCKS, 1, 1}, THREADS, THREADS * sizeof(int)};
    int in[COUNT], want[COUNT], got[COUNT];
    for (int i = 0; i < COUNT; i++)
        in[i] = i * i % 97 + 1;
    int *dev_in = static_cast<int *>(gpu_put(in, sizeof in));
    int *dev_want = static_cast<int *>(gpu_new(sizeof want));
    int *dev_got = static_cast<int *>(gpu_new(sizeof got));
    gpu_ok(LAUNCH(bug->clean, grid, NULL, dev_in, dev_want));
    gpu_take(want, dev_want, sizeof want);
    gpu_ok(LAUNCH(is_planted ? bug->planted : bug->clean, grid, NULL, dev_in, dev_got));
    gpu_take(got, dev_got, sizeof got);
    gpu_ok(cudaFree(dev_in));
    return memcmp(want, got, sizeof got) == 0;
}

#define BUG(name, caught, says)                                                                    \
    {                                                                                              \
#        name, caught, says, run_kernel, name < false>, name < true>                               \
    }

#endif
