// A CUDA device for tests. Scratch and staging are small, so that work comes in pieces, and because
// the emulation opens, locks and copies all of the device's memory around every kernel.

#ifndef FATHOM_TESTS_GPU_DEVICE_RIG_H
#define FATHOM_TESTS_GPU_DEVICE_RIG_H

#include "tests/gpu/gpu_rig.h"

#include "gpu/gpu_device.h"

static inline fathom_device *gpu_rig_host(fathom_log_fn log, void *log_user)
{
    fathom_device *host;
    struct fathom_device_params params;
    fathom_device_params_init(&params);
    params.n_threads = 2;
    params.log = log;
    params.log_user = log_user;
    check_ok(fathom_device_open(&params, &host));
    return host;
}

static inline struct gpu_device_params gpu_rig_params(fathom_device *host)
{
    return (struct gpu_device_params){
        .index = -1,
        .host = host,
        .staging_bytes = 1 << 20,
        .product_bytes = 32 << 10,
        .blas_bytes = 1 << 20,
    };
}

static inline fathom_device *gpu_rig_open(void)
{
    fathom_device *device;
    const struct gpu_device_params params = gpu_rig_params(gpu_rig_host(NULL, NULL));
    check_ok(gpu_device_open(&params, &device));
    return device;
}

// n floats on the device.
static inline float *gpu_rig_put(fathom_device *device, const float *x, size_t n)
{
    void *dev;
    check_ok(device->ops->alloc(device, n * sizeof *x, "values", &dev));
    check_ok(device->ops->upload(device, dev, x, n * sizeof *x));
    return (float *)dev;
}

// Gets them back, and frees them.
static inline void gpu_rig_take(fathom_device *device, float *x, float *dev, size_t n)
{
    check_ok(device->ops->download(device, x, dev, n * sizeof *x));
    device->ops->release(device, dev, n * sizeof *x);
}

#endif
