// The CUDA device.

#ifndef FATHOM_GPU_GPU_DEVICE_H
#define FATHOM_GPU_GPU_DEVICE_H

#include "src/iface/device.h"

struct gpu_device_params {
    int32_t index;        // of the GPU; below 0: the first that can be used
    fathom_device *host;  // for work on the host's memory; on success the device's, to close
    size_t staging_bytes; // of pinned memory, at most
    size_t product_bytes; // of the GPU's memory, for weights and activations on their way through
                          // products
    size_t blas_bytes;    // of it, for cuBLAS
};
// What cuBLAS wants is by its manual, of the newest architectures.
enum {
    GPU_STAGING_BYTES = 16 << 20,
    GPU_PRODUCT_BYTES = 128 << 20,
    GPU_BLAS_BYTES = 32 << 20,
};

// EUNSUPPORTED when this build has no CUDA, or the machine no such GPU; the text says what is
// missing.
FATHOM_MUST_USE fathom_status gpu_device_open(const struct gpu_device_params *params,
                                              fathom_device **device);

// The machine's GPUs, also those that cannot be used; where there is none, one entry named "cuda"
// whose fault says why. Fills at most n_max of them; returns how many there are, 1 or more.
size_t gpu_device_list(struct fathom_device_info *infos, size_t n_max);

#endif
