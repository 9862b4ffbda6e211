// The CUDA device.

#ifndef FATHOM_GPU_GPU_DEVICE_H
#define FATHOM_GPU_GPU_DEVICE_H

#include "src/iface/device.h"

// EUNSUPPORTED when this build has no CUDA.
FATHOM_MUST_USE fathom_status gpu_device_open(const struct fathom_device_params *params,
                                              fathom_device **device);

#endif
