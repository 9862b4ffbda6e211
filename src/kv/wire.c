// The one file that names implementations: opens devices, hands out their operations.

#include "src/kv/wire.h"

#include "fathom/device.h"

#include <stdlib.h>
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
    params->name = "cpu";
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

static fathom_status open_gpu(const struct fathom_device_params *params, int32_t index,
                              fathom_device **device)
{
    struct gpu_device_params gpu = {
        .index = index,
        .staging_bytes = GPU_STAGING_BYTES,
        .product_bytes = GPU_PRODUCT_BYTES,
        .blas_bytes = GPU_BLAS_BYTES,
    };
    FATHOM_TRY(open_cpu(params, &gpu.host));
    const fathom_status status = gpu_device_open(&gpu, device);
    if (status < 0) gpu.host->ops->close(gpu.host);
    return status;
}

// Who asks for auto may think to have a GPU: why it is not used is worth a warning.
static fathom_status open_auto(const struct fathom_device_params *params, fathom_device **device)
{
    const struct log log = {params->log, params->log_user};
    struct fathom_device_info first;
    gpu_device_list(&first, 1);
    const bool has_gpu = strcmp(first.name, "cuda") != 0;
    if (has_gpu && open_gpu(params, -1, device) >= 0) return FATHOM_OK;
    log_write(&log, FATHOM_LOG_WARN, "device: auto takes the CPU: %s",
              has_gpu ? fathom_last_error() : first.fault);
    return open_cpu(params, device);
}

// "cuda" and "cuda:N"; index below 0: any.
static bool parse_gpu(const char *name, int32_t *index)
{
    enum { DIGITS_MAX = 4 };
    const char *digits = name + strlen("cuda:");
    *index = -1;
    if (strcmp(name, "cuda") == 0) return true;
    if (strncmp(name, "cuda:", strlen("cuda:")) != 0) return false;
    const size_t n = strspn(digits, "0123456789");
    if (n == 0 || n > DIGITS_MAX || digits[n] != '\0') return false;
    *index = (int32_t)strtol(digits, NULL, 10);
    return true;
}

fathom_status fathom_device_open(const struct fathom_device_params *params, fathom_device **device)
{
    fathom_status status;
    int32_t index;
    if (params == NULL || device == NULL)
        return status_set(FATHOM_EINVAL, "fathom_device_open: NULL argument");
    if (params->struct_bytes != sizeof *params)
        return status_set(FATHOM_EINVAL,
                          "device params: struct_bytes=%u: call "
                          "fathom_device_params_init first",
                          params->struct_bytes);
    const char *name = params->name != NULL ? params->name : "cpu";
    if (strcmp(name, "cpu") == 0)
        status = open_cpu(params, device);
    else if (strcmp(name, "auto") == 0)
        status = open_auto(params, device);
    else if (parse_gpu(name, &index))
        status = open_gpu(params, index, device);
    else
        status =
            status_set(FATHOM_EINVAL, "device \"%s\": must be auto, cpu, cuda or cuda:N", name);
    if (status >= 0) log_write(&(*device)->log, FATHOM_LOG_INFO, "device: %s", (*device)->text);
    return status;
}

size_t fathom_device_list(struct fathom_device_info *infos, size_t n_max)
{
    const size_t n_left = n_max > 0 ? n_max - 1 : 0;
    if (n_max > 0) {
        memset(infos, 0, sizeof *infos);
        memcpy(infos->name, "cpu", sizeof "cpu");
        memcpy(infos->text, "this machine's processor", sizeof "this machine's processor");
    }
    return 1 + gpu_device_list(n_left > 0 ? infos + 1 : NULL, n_left);
}

uint64_t fathom_device_free_bytes(fathom_device *device)
{
    return device->ops->free_bytes != NULL ? device->ops->free_bytes(device) : 0;
}

fathom_status fathom_device_wait_stream(fathom_device *device, void *stream)
{
    if (device == NULL) return status_set(FATHOM_EINVAL, "fathom_device_wait_stream: no device");
    return device->ops->wait_stream(device, stream);
}

fathom_status fathom_stream_wait_device(fathom_device *device, void *stream)
{
    if (device == NULL) return status_set(FATHOM_EINVAL, "fathom_stream_wait_device: no device");
    return device->ops->stream_waits(device, stream);
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
