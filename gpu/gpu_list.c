// The machine's GPUs, and which can be used. The runtime is part of the binary and looks for the
// driver when it is first called, so all of this also runs where there is neither.

#include <stdio.h>
#include <string.h>

#include "gpu/gpu_device.h"
#include "gpu/gpu_private.h"

// 1000 major + 10 minor, as CUDA numbers its versions.
static int major_of(int version)
{
    return version / 1000;
}

static int minor_of(int version)
{
    return version % 1000 / 10;
}

// How many GPUs there are, or why there is none.
static int count(char *fault, size_t fault_bytes)
{
    int n = 0, driver = 0;
    fault[0] = '\0';
    const cudaError_t error = cudaGetDeviceCount(&n);
    if (error == cudaSuccess && n > 0) return n;
    (void)cudaGetLastError();
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
        snprintf(fault, fault_bytes,
                 "no NVIDIA driver is loaded: install one, of version 580 or "
                 "above");
    else if (error == cudaErrorInsufficientDriver)
        snprintf(fault, fault_bytes,
                 "the NVIDIA driver knows CUDA up to %d.%d, and this build needs %d.%d: update it",
                 major_of(driver), minor_of(driver), major_of(CUDART_VERSION),
                 minor_of(CUDART_VERSION));
    else if (error == cudaSuccess || error == cudaErrorNoDevice)
        snprintf(fault, fault_bytes, "the NVIDIA driver finds no GPU");
    else
        snprintf(fault, fault_bytes, "cudaGetDeviceCount: %s (%s)", cudaGetErrorString(error),
                 cudaGetErrorName(error));
    return 0;
}

static void describe(int index, struct fathom_device_info *info)
{
    struct cudaDeviceProp properties;
    memset(info, 0, sizeof *info);
    snprintf(info->name, sizeof info->name, "cuda:%d", index);
    const cudaError_t error = cudaGetDeviceProperties(&properties, index);
    if (error != cudaSuccess) {
        (void)cudaGetLastError();
        snprintf(info->fault, sizeof info->fault, "cudaGetDeviceProperties: %s (%s)",
                 cudaGetErrorString(error), cudaGetErrorName(error));
        return;
    }
    info->memory_bytes = properties.totalGlobalMem;
    snprintf(info->text, sizeof info->text, "%.64s, compute capability %d.%d, %.1f GiB",
             properties.name, properties.major, properties.minor,
             (double)properties.totalGlobalMem / (1 << 30));
    if (properties.major * 10 + properties.minor < GPU_ARCH_LEAST)
        snprintf(info->fault, sizeof info->fault,
                 "compute capability %d.%d is too old: this build is for %d.%d and above",
                 properties.major, properties.minor, GPU_ARCH_LEAST / 10, GPU_ARCH_LEAST % 10);
}

size_t gpu_device_list(struct fathom_device_info *infos, size_t n_max)
{
    char fault[sizeof infos->fault];
    const int n = count(fault, sizeof fault);
    for (int i = 0; i < n && (size_t)i < n_max; i++)
        describe(i, &infos[i]);
    if (n > 0) return (size_t)n;
    if (n_max > 0) {
        memset(infos, 0, sizeof *infos);
        snprintf(infos->name, sizeof infos->name, "cuda");
        memcpy(infos->fault, fault, sizeof fault);
    }
    return 1;
}

fathom_status gpu_list_choose(int32_t index, int *chosen, struct fathom_device_info *info)
{
    char fault[sizeof info->fault];
    const int n = count(fault, sizeof fault);
    if (n == 0) return status_set(FATHOM_EUNSUPPORTED, "%s; or use device \"cpu\"", fault);
    if (index >= n)
        return status_set(FATHOM_EUNSUPPORTED,
                          "device \"cuda:%d\": the GPUs here are cuda:0 to cuda:%d "
                          "(--list-devices); or use device \"cpu\"",
                          (int)index, n - 1);
    // If none can be used, the last one's fault is as good as any.
    int i = index < 0 ? 0 : (int)index;
    describe(i, info);
    while (index < 0 && info->fault[0] != '\0' && i + 1 < n)
        describe(++i, info);
    if (info->fault[0] != '\0')
        return status_set(FATHOM_EUNSUPPORTED, "%s (%s): %s; or use device \"cpu\"", info->name,
                          info->text, info->fault);
    *chosen = i;
    return FATHOM_OK;
}
