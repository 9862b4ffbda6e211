// Stands in for the CUDA device in a build without it.

#include "gpu/gpu_device.h"

#include <stdio.h>
#include <string.h>

#include "src/base/status.h"

static const char fault[] = "this build has no CUDA device";

fathom_status gpu_device_open(const struct gpu_device_params *params, fathom_device **device)
{
    (void)params;
    (void)device;
    return status_set(FATHOM_EUNSUPPORTED,
                      "%s: use device \"cpu\", or build where CUDA 13 is, with -Dcuda=enabled",
                      fault);
}

size_t gpu_device_list(struct fathom_device_info *infos, size_t n_max)
{
    if (n_max == 0) return 1;
    memset(infos, 0, sizeof *infos);
    snprintf(infos->name, sizeof infos->name, "cuda");
    snprintf(infos->fault, sizeof infos->fault, "%s", fault);
    return 1;
}
