// The one file that names implementations: opens devices, hands out their operations.

#include "src/kv/wire.h"

#include "fathom/device.h"

#include <string.h>

#include "cpu/cpu_device.h"
#include "gpu/gpu_device.h"
#include "index/selectors.h"
#include "io/disk_store.h"
#include "io/topology.h"
#include "src/base/log.h"
#include "src/base/status.h"
#include "src/iface/device.h"
#include "src/iface/linear.h"

void fathom_device_params_init(struct fathom_device_params *params)
{
    memset(params, 0, sizeof *params);
    params->struct_bytes = sizeof *params;
    params->isa_mask = FATHOM_ISA_ALL;
    params->pin_threads = true;
    params->name = "auto";
}

static fathom_status open_cpu(const struct fathom_device_params *params, fathom_device **device)
{
    enum { THREADS_MAX = 1024 };
    struct cores cores;
    FATHOM_TRY(topology_cores(&cores));
    struct cpu_device_params cpu = {
        .n_threads = params->n_threads > 0 ? params->n_threads : cores.n_cores,
        .isa_mask = params->isa_mask,
        .log = {params->log, params->log_user},
    };
    // More threads than CPUs would only wait for each other if they were tied down.
    if (params->pin_threads && cpu.n_threads <= cores.n_cpus) cpu.cpus = cores.cpus;
    fathom_status status = FATHOM_OK;
    if (cpu.n_threads > THREADS_MAX)
        status = status_set(FATHOM_EINVAL, "n_threads=%u: at most %d", cpu.n_threads, THREADS_MAX);
    else
        status = cpu_device_open(&cpu, device);
    topology_cores_fini(&cores);
    return status;
}

fathom_status fathom_device_open(const struct fathom_device_params *params, fathom_device **device)
{
    fathom_status status;
    if (params == NULL || device == NULL)
        return status_set(FATHOM_EINVAL, "fathom_device_open: NULL argument");
    if (params->struct_bytes != sizeof *params)
        return status_set(FATHOM_EINVAL,
                          "device params: struct_bytes=%u: call "
                          "fathom_device_params_init first",
                          params->struct_bytes);
    const char *name = params->name != NULL ? params->name : "auto";
    if (strcmp(name, "cpu") == 0 || strcmp(name, "auto") == 0)
        status = open_cpu(params, device);
    else if (strncmp(name, "cuda", 4) == 0)
        status = gpu_device_open(params, device);
    else
        status = status_set(FATHOM_EINVAL, "device \"%s\": must be auto, cpu or cuda", name);
    if (status >= 0) log_write(&(*device)->log, FATHOM_LOG_INFO, "device: %s", (*device)->text);
    return status;
}

void fathom_device_close(fathom_device **device)
{
    if (device == NULL || *device == NULL) return;
    (*device)->ops->close(*device);
    *device = NULL;
}

const char *fathom_device_text(const fathom_device *device)
{
    return device->text;
}

const struct linear_ops *linear_of(fathom_device *device)
{
    return device->linear;
}

const struct selector_ops *wire_selector_ops(void)
{
    return &selector_ops;
}

const struct store_ops *wire_store_ops(void)
{
    return &store_ops;
}

uint64_t wire_memory_bytes(void)
{
    return topology_memory_bytes();
}
