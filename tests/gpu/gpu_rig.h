// What tests of the CUDA code share. They are linked twice: with the emulation, where each runs in
// all of its modes, and with CUDA's own libraries, where it runs on the device if there is one.

#ifndef FATHOM_TESTS_GPU_GPU_RIG_H
#define FATHOM_TESTS_GPU_GPU_RIG_H

#include "tests/check.h"

#include <cuda_runtime_api.h>

#include "tests/emu/emu.h"

#define gpu_ok(expr)                                                                               \
    do {                                                                                           \
        cudaError_t error_of_gpu = (expr);                                                         \
        if (error_of_gpu != cudaSuccess)                                                           \
            fail_msg("%s: %s", #expr, cudaGetErrorString(error_of_gpu));                           \
    } while (0)

static inline cudaStream_t gpu_new_stream(void)
{
    cudaStream_t stream = NULL;
    gpu_ok(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
}

// Exactly as large as asked for, so that the emulation sees every access beyond. Poisoned there.
static inline void *gpu_new(size_t bytes)
{
    void *dev = NULL;
    gpu_ok(cudaMalloc(&dev, bytes));
    return dev;
}

static inline void *gpu_put(const void *host, size_t bytes)
{
    void *dev = gpu_new(bytes);
    gpu_ok(cudaMemcpy(dev, host, bytes, cudaMemcpyHostToDevice));
    gpu_ok(cudaStreamSynchronize(NULL)); // else it may be on its way when other streams read it
    return dev;
}

static inline void gpu_get(void *host, const void *dev, size_t bytes)
{
    gpu_ok(cudaMemcpy(host, dev, bytes, cudaMemcpyDeviceToHost));
}

static inline void gpu_take(void *host, void *dev, size_t bytes)
{
    gpu_get(host, dev, bytes);
    gpu_ok(cudaFree(dev));
}

// Runs the test in each mode; nothing may be left on the device.
static inline void gpu_each_mode(void (*test)(void))
{
    for (size_t i = 0; i < emu_n_modes; i++) {
        printf("mode: %s\n", emu_modes[i].name);
        emu_begin(&emu_modes[i]);
        test();
        assert_int_equal(emu_end(), 0);
    }
}

// test_NAME, which runs run_NAME in each mode.
#define GPU_TEST(name)                                                                             \
    static void test_##name(void **state)                                                          \
    {                                                                                              \
        (void)state, gpu_each_mode(run_##name);                                                    \
    }

// check_run, where there is a device; the emulation always has one.
static inline int gpu_run(const char *group, const struct CMUnitTest *tests, size_t n_tests)
{
    int n_devices = 0;
    emu_begin(&emu_modes[0]);
    cudaError_t error = cudaGetDeviceCount(&n_devices);
    emu_end();
    if (error == cudaSuccess && n_devices > 0) return check_run(group, tests, n_tests);
    printf("skipped: no CUDA device: %s\ncheck: %s: 0 passed, 0 failed, %zu skipped\n",
           cudaGetErrorString(error), group, n_tests);
    return 77;
}

#endif
