// Memory and copies, as the CUDA runtime has them.

#include <stdlib.h>
#include <string.h>

#include "tests/emu/emu_private.h"

// ---- Memory -------------------------------------------------------------------------------------

static cudaError_t allocate(void **at, size_t bytes, enum emu_where where)
{
    cudaError_t status = emu_enter(cudaErrorMemoryAllocation);
    if (status == cudaSuccess) status = emu_graph_refuse(false);
    if (status == cudaSuccess) status = emu_memory_new(where, bytes, true, at);
    return emu_leave(status);
}

cudaError_t cudaMalloc(void **at, size_t bytes)
{
    return allocate(at, bytes, EMU_DEVICE);
}

cudaError_t cudaMallocHost(void **at, size_t bytes)
{
    return allocate(at, bytes, EMU_PINNED);
}

cudaError_t cudaHostAlloc(void **at, size_t bytes, unsigned flags)
{
    (void)flags;
    return allocate(at, bytes, EMU_PINNED);
}

cudaError_t cudaHostRegister(void *at, size_t bytes, unsigned flags)
{
    (void)flags;
    cudaError_t status = emu_enter(cudaErrorMemoryAllocation);
    if (status == cudaSuccess) status = emu_graph_refuse(false);
    if (status == cudaSuccess) status = emu_memory_register(at, bytes);
    return emu_leave(status);
}

// Freeing waits for the device.
static cudaError_t release(void *at, enum emu_where where)
{
    cudaError_t status = cudaSuccess;
    emu_lock();
    if (at != NULL && emu_graph_refuse(false) != cudaSuccess)
        return emu_leave(cudaErrorStreamCaptureUnsupported);
    emu_stream_finish_all();
    struct emu_memory *memory = emu_memory_find(at);
    if (memory != NULL && memory->at == at && memory->where == where)
        emu_memory_free(memory);
    else if (at != NULL)
        status = cudaErrorInvalidValue;
    return emu_leave(status);
}

cudaError_t cudaFree(void *at)
{
    return release(at, EMU_DEVICE);
}

cudaError_t cudaFreeHost(void *at)
{
    return release(at, EMU_PINNED);
}

cudaError_t cudaHostUnregister(void *at)
{
    return release(at, EMU_REGISTERED);
}

static void open_memory(void *at)
{
    emu_memory_open(emu_memory_find(at));
}

static void free_memory(void *at)
{
    emu_memory_free(emu_memory_find(at));
}

// The address is given at once; the memory is there when the stream has come so far.
cudaError_t cudaMallocAsync(void **at, size_t bytes, cudaStream_t stream)
{
    cudaError_t status = emu_enter(cudaErrorMemoryAllocation);
    emu_graph_forbid(emu_stream_known(stream), "cudaMallocAsync");
    if (status == cudaSuccess) status = emu_memory_new(EMU_DEVICE, bytes, false, at);
    if (status == cudaSuccess && *at != NULL) {
        const struct emu_work work = {"cudaMallocAsync", open_memory, NULL, *at};
        emu_stream_push(stream, &work);
    }
    return emu_leave(status);
}

cudaError_t cudaFreeAsync(void *at, cudaStream_t stream)
{
    cudaError_t status = cudaSuccess;
    emu_lock();
    struct emu_memory *memory = emu_memory_find(at);
    const struct emu_work work = {"cudaFreeAsync", free_memory, NULL, at};
    emu_graph_forbid(emu_stream_known(stream), work.what);
    if (memory != NULL && memory->at == at && memory->where == EMU_DEVICE)
        emu_stream_push(stream, &work);
    else if (at != NULL)
        status = cudaErrorInvalidValue;
    return emu_leave(status);
}

// The pool keeps nothing back here, so its threshold changes nothing.
static char default_pool;

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device)
{
    cudaError_t status = emu_enter(cudaErrorUnknown);
    if (status == cudaSuccess && device != 0) status = cudaErrorInvalidDevice;
    if (status == cudaSuccess) *pool = (cudaMemPool_t)&default_pool;
    return emu_leave(status);
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, enum cudaMemPoolAttr attribute, void *value)
{
    (void)value;
    cudaError_t status = emu_enter(cudaErrorUnknown);
    if (status == cudaSuccess &&
        (pool != (cudaMemPool_t)&default_pool || attribute != cudaMemPoolAttrReleaseThreshold))
        status = cudaErrorInvalidValue;
    return emu_leave(status);
}

cudaError_t cudaMemGetInfo(size_t *n_free, size_t *n_total)
{
    cudaError_t status = emu_enter(cudaErrorUnknown);
    *n_total = emu_device_bytes();
    *n_free = *n_total - emu_memory_used();
    return emu_leave(status);
}

// ---- Copies -------------------------------------------------------------------------------------

struct copy {
    char *to;
    const char *from; // NULL: the bytes are `value`
    size_t to_pitch, from_pitch, width, n_rows;
    int value;
    char *staged; // copy of pageable memory of the host, made when the call was
};

static void run_copy(void *arg)
{
    const struct copy *copy = arg;
    for (size_t row = 0; row < copy->n_rows; row++) {
        char *to = copy->to + row * copy->to_pitch;
        if (copy->from != NULL)
            memcpy(to, copy->from + row * copy->from_pitch, copy->width);
        else
            memset(to, copy->value, copy->width);
    }
}

static void drop_copy(void *arg)
{
    struct copy *copy = arg;
    free(copy->staged);
    free(copy);
}

// The side of a copy lies in one allocation, or is pageable.
static bool is_whole(const struct emu_memory *memory, const char *at, size_t pitch,
                     const struct copy *copy)
{
    return memory == NULL ||
           (size_t)(at - memory->at) + (copy->n_rows - 1) * pitch + copy->width <= memory->bytes;
}

static void check_kind(enum cudaMemcpyKind kind, bool from_device, bool to_device)
{
    const bool from[] = {false, false, true, true}, to[] = {false, true, false, true};
    if (kind == cudaMemcpyDefault) return;
    if (kind > cudaMemcpyDeviceToDevice || from[kind] != from_device || to[kind] != to_device)
        emu_fail("a copy from %s to %s is called kind %d", from_device ? "device" : "host",
                 to_device ? "device" : "host", (int)kind);
}

static void stage(struct copy *copy)
{
    copy->staged = malloc(copy->width * copy->n_rows);
    if (copy->staged == NULL) emu_fail("no memory to stage a copy in");
    for (size_t row = 0; row < copy->n_rows; row++)
        memcpy(copy->staged + row * copy->width, copy->from + row * copy->from_pitch, copy->width);
    copy->from = copy->staged;
    copy->from_pitch = copy->width;
}

static cudaError_t queue_copy(const struct copy *wanted, enum cudaMemcpyKind kind,
                              cudaStream_t stream, bool wait)
{
    if (wanted->width == 0 || wanted->n_rows == 0) return cudaSuccess;
    const struct emu_memory *to = emu_memory_find(wanted->to);
    const struct emu_memory *from = wanted->from != NULL ? emu_memory_find(wanted->from) : NULL;
    if (!is_whole(to, wanted->to, wanted->to_pitch, wanted) ||
        (from != NULL && !is_whole(from, wanted->from, wanted->from_pitch, wanted)))
        return cudaErrorInvalidValue;
    if (wanted->from != NULL)
        check_kind(kind, from != NULL && from->where == EMU_DEVICE,
                   to != NULL && to->where == EMU_DEVICE);
    else if (to == NULL)
        return cudaErrorInvalidValue;
    struct copy *copy = malloc(sizeof *copy);
    if (copy == NULL) emu_fail("no memory for a copy's description");
    *copy = *wanted;
    if (to == NULL || (copy->from != NULL && from == NULL))
        emu_graph_forbid(emu_stream_known(stream), "a copy of pageable memory");
    if (copy->from != NULL && from == NULL) stage(copy);
    // Pageable memory is written at once. Else the host waits, if at all, for memory of its own,
    // and neither for copies on the device nor for those of staged memory to it.
    const bool is_hosts =
        to == NULL || to->where != EMU_DEVICE || (from != NULL && from->where != EMU_DEVICE);
    const bool waits = to == NULL || (wait && is_hosts);
    const struct emu_work work = {"a copy", run_copy, drop_copy, copy};
    emu_stream_push(stream, &work);
    if (waits) emu_stream_finish(stream);
    return cudaSuccess;
}

static cudaError_t copy_rows(const struct copy *copy, enum cudaMemcpyKind kind, cudaStream_t stream,
                             bool wait)
{
    cudaError_t status = emu_enter(cudaErrorUnknown);
    if (status == cudaSuccess && wait) status = emu_graph_refuse(false);
    if (status == cudaSuccess) status = queue_copy(copy, kind, stream, wait);
    return emu_leave(status);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    const struct copy copy = {.to = to, .from = from, .width = bytes, .n_rows = 1};
    return copy_rows(&copy, kind, stream, false);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    const struct copy copy = {.to = to, .from = from, .width = bytes, .n_rows = 1};
    return copy_rows(&copy, kind, NULL, true);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream)
{
    const struct copy copy = {to, from, to_pitch, from_pitch, width, height, 0, NULL};
    return copy_rows(&copy, kind, stream, false);
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    const struct copy copy = {.to = to, .width = bytes, .n_rows = 1, .value = value};
    return copy_rows(&copy, cudaMemcpyDefault, stream, false);
}

cudaError_t cudaMemset(void *to, int value, size_t bytes)
{
    return cudaMemsetAsync(to, value, bytes, NULL);
}
