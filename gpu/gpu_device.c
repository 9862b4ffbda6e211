// The CUDA device: memory, and the life of the device. Its operations are in gpu_attend.c (cached
// rows) and gpu_linear.c (the model's linear algebra).

#include "gpu/gpu_device.h"

#include <stdio.h>
#include <string.h>

#include "gpu/attend_cuda.h"
#include "gpu/gpu_private.h"
#include "src/base/log.h"
#include "src/base/mem.h"

static const double mib = 1 << 20;

static struct gpu_device *of(fathom_device *device)
{
    return (struct gpu_device *)device;
}

static fathom_status no_memory(size_t bytes, const char *what, const char *remedy)
{
    size_t n_free = 0, n_total = 0;
    (void)cudaGetLastError();
    GPU_TRY(cudaMemGetInfo, &n_free, &n_total);
    return status_set(FATHOM_ENOMEM,
                      "%s: %.2f MiB of GPU memory are needed, and %.2f MiB of its %.1f MiB are "
                      "free: take %s, or device \"cpu\" (--device)",
                      what, (double)bytes / mib, (double)n_free / mib, (double)n_total / mib,
                      remedy);
}

static fathom_status take(size_t bytes, const char *what, const char *remedy, void **dev)
{
    void *at = NULL;
    const cudaError_t error = cudaMalloc(&at, bytes);
    if (error == cudaErrorMemoryAllocation) return no_memory(bytes, what, remedy);
    FATHOM_TRY(gpu_status(error, "cudaMalloc"));
    *dev = at;
    return FATHOM_OK;
}

fathom_status gpu_take(size_t bytes, const char *what, void **dev)
{
    return take(bytes, what,
                "a smaller context (-c), batch (-b) or model, fewer layers on the GPU (-ngl)", dev);
}

fathom_status gpu_take_own(size_t bytes, const char *what, void **dev)
{
    return take(bytes, what, "a larger GPU (cuda:N), end what else uses this one", dev);
}

static fathom_status alloc(fathom_device *device, size_t bytes, const char *what, void **dev)
{
    struct gpu_device *gpu = of(device);
    void *at;
    FATHOM_TRY(gpu_enter(gpu));
    FATHOM_TRY(gpu_take(bytes, what, &at));
    const fathom_status status =
        gpu_status(cudaMemsetAsync(at, 0, bytes, gpu->stream), "cudaMemsetAsync");
    if (status < 0)
        (void)cudaFree(at);
    else
        *dev = at;
    return status;
}

static void keep_fault(struct gpu_device *gpu, fathom_status status)
{
    if (status >= 0 || gpu->lost < 0) return;
    gpu->lost = status;
    snprintf(gpu->lost_text, sizeof gpu->lost_text, "%s", fathom_last_error());
}

static fathom_status tell_lost(struct gpu_device *gpu)
{
    const fathom_status lost = gpu->lost;
    gpu->lost = FATHOM_OK;
    return lost < 0 ? status_set(lost, "%s", gpu->lost_text) : FATHOM_OK;
}

// What was kept back may name the memory. CUDA waits for what the device was given, for that may
// still use it.
static void release(fathom_device *device, void *dev, size_t bytes)
{
    struct gpu_device *gpu = of(device);
    (void)bytes;
    if (gpu->step.n_ops > 0) keep_fault(gpu, gpu_enter(gpu));
    gpu_step_forget(gpu);
    (void)cudaFree(dev);
}

// What is allocated stays: a device's memory has no pages to give back.
static void discard(fathom_device *device, void *dev, size_t bytes)
{
    (void)device, (void)dev, (void)bytes;
}

static fathom_status upload(fathom_device *device, void *dev, const void *host, size_t bytes)
{
    struct gpu_device *gpu = of(device);
    GPU_RANGE("upload");
    FATHOM_TRY(gpu_enter(gpu));
    return gpu_staging_upload(&gpu->staging, gpu->stream, dev, host, bytes);
}

static fathom_status download(fathom_device *device, void *host, const void *dev, size_t bytes)
{
    struct gpu_device *gpu = of(device);
    GPU_RANGE("download");
    FATHOM_TRY(gpu_enter(gpu));
    FATHOM_TRY(tell_lost(gpu));
    return gpu_staging_download(&gpu->staging, gpu->stream, host, dev, bytes);
}

static fathom_status copy(const struct gpu_device *gpu, void *to, const void *from, size_t bytes)
{
    GPU_TRY(cudaMemcpyAsync, to, from, bytes, cudaMemcpyDeviceToDevice, gpu->stream);
    return FATHOM_OK;
}

// Piece by piece through scratch, from the end that is moved away from: a piece overwrites nothing
// but what has been moved.
static fathom_status slide(const struct gpu_device *gpu, uint8_t *to, const uint8_t *from,
                           size_t bytes)
{
    const size_t most = gpu->scratch_bytes;
    for (size_t done = 0, n; done < bytes; done += n) {
        n = bytes - done < most ? bytes - done : most;
        const size_t at = to < from ? done : bytes - done - n;
        FATHOM_TRY(copy(gpu, gpu->dev_scratch, from + at, n));
        FATHOM_TRY(copy(gpu, to + at, gpu->dev_scratch, n));
    }
    return FATHOM_OK;
}

static fathom_status try_move(struct gpu_device *gpu, uint8_t *to, const uint8_t *from,
                              size_t bytes)
{
    const bool overlap = to < from + bytes && from < to + bytes;
    FATHOM_TRY(gpu_enter(gpu));
    if (bytes == 0 || to == from) return FATHOM_OK;
    return overlap ? slide(gpu, to, from, bytes) : copy(gpu, to, from, bytes);
}

static void move(fathom_device *device, void *dev_to, const void *dev_from, size_t bytes)
{
    keep_fault(of(device), try_move(of(device), dev_to, dev_from, bytes));
}

static fathom_status sync(fathom_device *device)
{
    struct gpu_device *gpu = of(device);
    GPU_RANGE("sync");
    FATHOM_TRY(gpu_enter(gpu));
    FATHOM_TRY(tell_lost(gpu));
    GPU_TRY(cudaStreamSynchronize, gpu->stream);
    return FATHOM_OK;
}

// A stream that is captured would pull the device's into its capture. The event is free again at
// once: a wait is for what it meant when the wait was queued.
static fathom_status let_wait(struct gpu_device *gpu, cudaStream_t callers, cudaStream_t later,
                              cudaStream_t earlier)
{
    enum cudaStreamCaptureStatus capture;
    FATHOM_TRY(gpu_enter(gpu));
    GPU_TRY(cudaStreamIsCapturing, callers, &capture);
    if (capture != cudaStreamCaptureStatusNone)
        return status_set(FATHOM_EINVAL, "%s: the stream is being captured: end that first",
                          gpu->base.text);
    GPU_TRY(cudaEventRecord, gpu->order, earlier);
    GPU_TRY(cudaStreamWaitEvent, later, gpu->order, 0);
    return FATHOM_OK;
}

static fathom_status wait_stream(fathom_device *device, void *stream)
{
    return let_wait(of(device), stream, of(device)->stream, stream);
}

static fathom_status stream_waits(fathom_device *device, void *stream)
{
    return let_wait(of(device), stream, stream, of(device)->stream);
}

static uint64_t free_bytes(fathom_device *device)
{
    size_t n_free = 0, n_total = 0;
    if (cudaSetDevice(of(device)->index) != cudaSuccess ||
        cudaMemGetInfo(&n_free, &n_total) != cudaSuccess)
        return 0;
    return n_free;
}

// ---- Life ---------------------------------------------------------------------------------------

// Of all but the host's device.
static void close_gpu(struct gpu_device *gpu)
{
    (void)cudaSetDevice(gpu->index);
    if (gpu->stream != NULL) (void)cudaStreamSynchronize(gpu->stream);
    gpu_blas_close(&gpu->blas);
    gpu_staging_close(&gpu->staging);
    gpu_step_close(gpu);
    (void)cudaFree(gpu->dev_guest);
    (void)cudaFree(gpu->dev_scratch);
    (void)cudaFree(gpu->dev_workspace);
    if (gpu->order != NULL) (void)cudaEventDestroy(gpu->order);
    if (gpu->stream != NULL) (void)cudaStreamDestroy(gpu->stream);
    mem_free(gpu);
}

static void close_device(fathom_device *device)
{
    fathom_device *host = of(device)->host;
    close_gpu(of(device));
    host->ops->close(host);
}

static const struct device_ops gpu_device_ops = {
    .alloc = alloc,
    .release = release,
    .discard = discard,
    .upload = upload,
    .download = download,
    .move = move,
    .sync = sync,
    .free_bytes = free_bytes,
    .store_rows = gpu_attend_store_rows,
    .attend_dense = gpu_attend_dense,
    .step_begin = gpu_step_begin,
    .step_end = gpu_step_end,
    .wait_stream = wait_stream,
    .stream_waits = stream_waits,
    .close = close_device,
};

// Without cuBLAS the device works, slower.
static fathom_status open_blas(struct gpu_device *gpu, size_t workspace_bytes)
{
    if (gpu_blas_find(GPU_BLAS_LIBRARY, &gpu->blas) < 0) {
        log_write(&gpu->base.log, FATHOM_LOG_WARN,
                  "%s: prompts are read slowly, for there is no cuBLAS 13: %s", gpu->base.text,
                  fathom_last_error());
        return FATHOM_OK;
    }
    FATHOM_TRY(gpu_take_own(workspace_bytes, "workspace of cuBLAS", &gpu->dev_workspace));
    return gpu_blas_open(&gpu->blas, gpu->stream, gpu->dev_workspace, workspace_bytes);
}

static fathom_status open_parts(struct gpu_device *gpu, const struct gpu_device_params *params)
{
    int n_sms = 0;
    void *dev;
    FATHOM_TRY(gpu_enter(gpu));
    GPU_TRY(cudaDeviceGetAttribute, &n_sms, cudaDevAttrMultiProcessorCount, gpu->index);
    gpu->n_sms = (uint32_t)n_sms;
    FATHOM_TRY(gpu_status(attend_open_cuda(), "attend_open_cuda"));
    GPU_TRY(cudaStreamCreateWithFlags, &gpu->stream, cudaStreamNonBlocking);
    GPU_TRY(cudaEventCreateWithFlags, &gpu->order, cudaEventDisableTiming);
    FATHOM_TRY(gpu_staging_open(&gpu->staging, gpu->base.pool, params->staging_bytes));
    FATHOM_TRY(gpu_step_open(gpu));
    const size_t attend_bytes = (size_t)gpu->n_sms * ATTEND_CUDA_SM_BYTES;
    gpu->product_bytes = params->product_bytes;
    gpu->scratch_bytes =
        attend_bytes > params->product_bytes ? attend_bytes : params->product_bytes;
    FATHOM_TRY(gpu_take_own(gpu->scratch_bytes, "scratch", &dev));
    gpu->dev_scratch = dev;
    return open_blas(gpu, params->blas_bytes);
}

fathom_status gpu_device_open(const struct gpu_device_params *params, fathom_device **device)
{
    struct gpu_device *gpu = NULL;
    struct fathom_device_info info;
    int index;
    FATHOM_TRY(gpu_list_choose(params->index, &index, &info));
    FATHOM_TRY(mem_new(1, sizeof *gpu, "CUDA device", &gpu));
    gpu->base.ops = &gpu_device_ops;
    gpu->base.linear = &gpu_linear_ops;
    gpu->base.pool = params->host->pool;
    gpu->base.kernels = params->host->kernels;
    gpu->base.log = params->host->log;
    gpu->host = params->host;
    gpu->index = index;
    snprintf(gpu->base.text, sizeof gpu->base.text, "%s: %s", info.name, info.text);
    const fathom_status status = open_parts(gpu, params);
    if (status < 0) {
        close_gpu(gpu);
        return status_prefix(status, "%s", info.name);
    }
    *device = &gpu->base;
    return FATHOM_OK;
}
