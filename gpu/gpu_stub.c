// Stands in for the CUDA device in a build without it.

#include "gpu/gpu_device.h"

#include "src/base/status.h"

fathom_status gpu_device_open(const struct fathom_device_params *params, fathom_device **device)
{
    (void)params;
    (void)device;
    return status_set(FATHOM_EUNSUPPORTED, "this build has no CUDA device: use device \"cpu\"");
}
