// The CPU device: memory, and the life of the device. Its operations are in cpu_attend.c (cached
// rows) and cpu_linear.c (the model's linear algebra).
//
// Every operation has finished when it returns, so there is no queue and sync has nothing to do.

#include "cpu/cpu_device.h"

#include <stdio.h>
#include <string.h>

#include "cpu/cpu_kernels.h"
#include "cpu/cpu_private.h"
#include "src/base/mem.h"
#include "src/base/status.h"

static fathom_status alloc(fathom_device *device, size_t bytes, const char *what, void **dev)
{
    (void)device;
    // Small pages: a cache has a place for each layer and head, and a short text fills none of
    // them. They cost 2 % of the bandwidth of reading it.
    return mem_reserve(bytes, MEM_PAGES_SMALL, what, dev);
}

static void release(fathom_device *device, void *dev, size_t bytes)
{
    (void)device;
    if (dev != NULL) mem_unreserve(dev, bytes);
}

static void discard(fathom_device *device, void *dev, size_t bytes)
{
    (void)device;
    mem_discard(dev, bytes);
}

static fathom_status upload(fathom_device *device, void *dev, const void *host, size_t bytes)
{
    (void)device;
    memcpy(dev, host, bytes);
    return FATHOM_OK;
}

static fathom_status download(fathom_device *device, void *host, const void *dev, size_t bytes)
{
    (void)device;
    memcpy(host, dev, bytes);
    return FATHOM_OK;
}

static void move(fathom_device *device, void *dev_to, const void *dev_from, size_t bytes)
{
    (void)device;
    memmove(dev_to, dev_from, bytes);
}

static fathom_status sync(fathom_device *device)
{
    (void)device;
    return FATHOM_OK;
}

// Nothing to gain: what is asked for is done.
static void ignore_step(fathom_device *device)
{
    (void)device;
}

static fathom_status no_streams(fathom_device *device, void *stream)
{
    (void)stream;
    return status_set(FATHOM_EUNSUPPORTED,
                      "%s: it has no streams to wait for: its calls return when their work is done",
                      device->text);
}

static void close_device(fathom_device *device)
{
    struct cpu_device *cpu = (struct cpu_device *)device;
    if (cpu->activations != NULL) mem_unreserve(cpu->activations, CPU_ACTIVATION_BYTES);
    if (cpu->partials != NULL) mem_unreserve(cpu->partials, CPU_PARTIAL_BYTES);
    mem_free(cpu->scratch);
    pool_close(&cpu->pool);
    mem_free(cpu);
}

static const struct device_ops cpu_device_ops = {
    .alloc = alloc,
    .release = release,
    .discard = discard,
    .upload = upload,
    .download = download,
    .move = move,
    .sync = sync,
    .store_rows = cpu_attend_store_rows,
    .attend_dense = cpu_attend_dense,
    .step_begin = ignore_step,
    .step_end = ignore_step,
    .wait_stream = no_streams,
    .stream_waits = no_streams,
    .close = close_device,
};

fathom_status cpu_device_open(const struct cpu_device_params *params, fathom_device **device)
{
    struct cpu_device *cpu = NULL;
    void *block;
    fathom_status status;
    FATHOM_TRY(mem_new(1, sizeof *cpu, "CPU device", &cpu));
    cpu->base.ops = &cpu_device_ops;
    cpu->base.linear = &cpu_linear_ops;
    cpu->base.log = params->log;
    cpu_kernels_init(&cpu->kernels, params->isa_mask);
    snprintf(cpu->base.text, sizeof cpu->base.text, "cpu: %u thread%s, %s", params->n_threads,
             params->n_threads == 1 ? "" : "s", cpu->kernels.name);

    const struct pool_params pool = {.n_threads = params->n_threads, .cpus = params->cpus};
    FATHOM_CHECK(pool_open(&pool, &cpu->pool), out);
    cpu->base.pool = cpu->pool;
    cpu->base.kernels = &cpu->kernels;
    FATHOM_CHECK(mem_reserve(CPU_ACTIVATION_BYTES, MEM_PAGES_HUGE, "packed activations", &block),
                 out);
    cpu->activations = block;
    FATHOM_CHECK(mem_reserve(CPU_PARTIAL_BYTES, MEM_PAGES_HUGE, "attention partials", &block), out);
    cpu->partials = block;
    FATHOM_CHECK(mem_new(params->n_threads, ATTEND_SCRATCH_BYTES + CPU_ROTATED_BYTES,
                         "thread scratch", &cpu->scratch),
                 out);
    *device = &cpu->base;
    return FATHOM_OK;
out:
    close_device(&cpu->base);
    return status;
}
