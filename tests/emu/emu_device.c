// Launches, and what the emulated device says of itself. Of the CUDA runtime there is here and in
// emu_runtime.c and emu_stream.c what the CUDA device calls: what is not there does not link.

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/emu/emu_private.h"
#include "tests/emu/emu_sanitizer.h"

enum { SHARED_DEFAULT = 48 * 1024, SHARED_MAX = 99 * 1024, KERNELS_MAX = 256 };
enum { CAPABILITY = 86, PROCESSORS = 4, REGISTERS = 65536, BLOCKS_YZ_MAX = 65535 };

// Kernels that may use more shared memory than is theirs by default.
static struct {
    struct {
        const void *kernel;
        size_t shared_bytes;
    } allowed[KERNELS_MAX];
    unsigned n_allowed;
} device;

size_t emu_device_bytes(void)
{
    return emu_mode()->device_bytes > 0 ? emu_mode()->device_bytes : (size_t)1 << 30;
}

static int capability(void)
{
    return emu_mode()->capability > 0 ? (int)emu_mode()->capability : CAPABILITY;
}

static bool is_device(int index)
{
    return index >= 0 && index < (emu_mode()->n_devices > 0 ? (int)emu_mode()->n_devices : 1);
}

size_t emu_shared_max(void)
{
    return emu_mode()->shared_bytes > 0 ? emu_mode()->shared_bytes : SHARED_MAX;
}

void emu_device_end(void)
{
    memset(&device, 0, sizeof device);
}

// ---- Launches -----------------------------------------------------------------------------------

static unsigned find_allowed(const void *kernel)
{
    unsigned i = 0;
    while (i < device.n_allowed && device.allowed[i].kernel != kernel)
        i++;
    return i;
}

static size_t dynamic_allowed(const void *kernel)
{
    const unsigned i = find_allowed(kernel);
    return i < device.n_allowed ? device.allowed[i].shared_bytes : SHARED_DEFAULT;
}

size_t emu_shared_allowed(const void *kernel)
{
    return find_allowed(kernel) < device.n_allowed ? emu_shared_max() : SHARED_DEFAULT;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attribute, int value)
{
    cudaError_t status = emu_enter(cudaErrorUnknown);
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
        emu_fail("cudaFuncSetAttribute: attribute %d is not emulated", (int)attribute);
    if (status == cudaSuccess && (value < 0 || (size_t)value > emu_shared_max()))
        status = cudaErrorInvalidValue;
    if (status == cudaSuccess) {
        const unsigned i = find_allowed(kernel);
        if (i == KERNELS_MAX) emu_fail("more than %d kernels have attributes", KERNELS_MAX);
        device.allowed[i].kernel = kernel;
        device.allowed[i].shared_bytes = (size_t)value;
        if (i == device.n_allowed) device.n_allowed++;
    }
    return emu_leave(status);
}

static cudaError_t check_launch(const struct emu_launch *launch)
{
    const uint32_t *blocks = launch->blocks;
    if (launch->n_threads == 0 || launch->n_threads > EMU_THREADS_MAX || blocks[0] == 0 ||
        blocks[0] > INT32_MAX || blocks[1] == 0 || blocks[1] > BLOCKS_YZ_MAX || blocks[2] == 0 ||
        blocks[2] > BLOCKS_YZ_MAX)
        return cudaErrorInvalidConfiguration;
    return launch->shared_bytes > dynamic_allowed(launch->kernel) ? cudaErrorInvalidValue
                                                                  : cudaSuccess;
}

static void run_launch(void *arg)
{
    emu_grid_run(arg);
}

static void drop_launch(void *arg)
{
    struct emu_launch *launch = arg;
    launch->drop(launch->call);
    free(launch);
}

cudaError_t emu_queue_launch(const struct emu_launch *launch, cudaStream_t stream)
{
    cudaError_t status = emu_enter(cudaErrorLaunchFailure);
    if (status == cudaSuccess) status = check_launch(launch);
    if (status != cudaSuccess) {
        launch->drop(launch->call);
        return emu_leave(status);
    }
    struct emu_launch *queued = malloc(sizeof *queued);
    if (queued == NULL) emu_fail("no memory for a launch");
    *queued = *launch;
    const struct emu_work work = {launch->name, run_launch, drop_launch, queued};
    emu_stream_push(stream, &work);
    return emu_leave(status);
}

void emu_check_pointer(const char *kernel, int index, const void *pointer)
{
    emu_lock();
    if (pointer != NULL && emu_memory_find(pointer) == NULL)
        emu_fail("kernel %s: pointer argument %d lies neither in the device's memory nor in pinned "
                 "memory",
                 kernel, index);
    emu_unlock();
}

// Whether that is the address of something that the process can read, outside the device's memory.
// A struct's padding may hold the upper half of an old address: with a number in the lower half
// that is hardly ever one.
static bool is_host_address(uint64_t word)
{
    const uint64_t lowest = (uint64_t)0x2000 << 32, highest = (uint64_t)0x8000 << 32;
    const void *at = (const void *)(uintptr_t)word;
    // Below lie the sanitizers' own ranges, and what two small numbers look like.
    if (word < lowest || word >= highest || emu_memory_is_range(at)) return false;
    if (__asan_address_is_poisoned != NULL && __asan_address_is_poisoned(at) != 0) return false;
    int ends[2];
    if (pipe(ends) != 0) emu_fail("no pipe to probe addresses with");
    const bool is_readable = write(ends[1], at, 1) == 1; // else it fails with EFAULT
    close(ends[0]);
    close(ends[1]);
    return is_readable;
}

void emu_check_words(const char *kernel, int index, const void *arg, size_t bytes)
{
    emu_lock();
    for (size_t at = 0; at + sizeof(uint64_t) <= bytes; at += sizeof(uint64_t)) {
        uint64_t word;
        memcpy(&word, (const char *)arg + at, sizeof word);
        if (emu_memory_find((const void *)(uintptr_t)word) == NULL && is_host_address(word))
            emu_fail("kernel %s: argument %d, byte %zu: an address in the host's memory", kernel,
                     index, at);
    }
    emu_unlock();
}

// ---- Errors -------------------------------------------------------------------------------------

cudaError_t cudaGetLastError(void)
{
    return emu_last_error(true);
}

cudaError_t cudaPeekAtLastError(void)
{
    return emu_last_error(false);
}

const char *cudaGetErrorName(cudaError_t error)
{
    return error == cudaSuccess ? "cudaSuccess" : "cudaError";
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorNotReady:
        return "device not ready";
    default:
        return "an error of the emulated device";
    }
}

// ---- Properties ---------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int *n)
{
    cudaError_t status = emu_enter(cudaErrorNoDevice);
    if (status == cudaSuccess && emu_mode()->driver != 0 && emu_mode()->driver < CUDART_VERSION)
        status = cudaErrorInsufficientDriver;
    if (status == cudaSuccess && emu_mode()->lacks_gpu) status = cudaErrorNoDevice;
    for (*n = 0; status == cudaSuccess && is_device(*n);)
        ++*n;
    return emu_leave(status);
}

cudaError_t cudaDriverGetVersion(int *version)
{
    cudaError_t status = emu_enter(cudaErrorUnknown);
    *version = emu_mode()->driver == 0 ? CUDART_VERSION : (int)emu_mode()->driver;
    if (*version < 0) *version = 0;
    return emu_leave(status);
}

cudaError_t cudaSetDevice(int index)
{
    cudaError_t status = emu_enter(cudaErrorUnknown);
    if (status == cudaSuccess && !is_device(index)) status = cudaErrorInvalidDevice;
    return emu_leave(status);
}

cudaError_t cudaGetDevice(int *index)
{
    cudaError_t status = emu_enter(cudaErrorUnknown);
    *index = 0;
    return emu_leave(status);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int index)
{
    cudaError_t status = emu_enter(cudaErrorUnknown);
    if (status == cudaSuccess && !is_device(index)) status = cudaErrorInvalidDevice;
    if (status == cudaSuccess) {
        memset(properties, 0, sizeof *properties);
        strcpy(properties->name, "emulation");
        properties->totalGlobalMem = emu_device_bytes();
        properties->major = capability() / 10;
        properties->minor = capability() % 10;
        properties->multiProcessorCount = PROCESSORS;
        properties->warpSize = EMU_WARP;
        properties->maxThreadsPerBlock = EMU_THREADS_MAX;
        properties->sharedMemPerBlock = SHARED_DEFAULT;
        properties->sharedMemPerBlockOptin = emu_shared_max();
        properties->regsPerBlock = REGISTERS;
    }
    return emu_leave(status);
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int index)
{
    cudaError_t status = emu_enter(cudaErrorUnknown);
    if (status == cudaSuccess && !is_device(index)) status = cudaErrorInvalidDevice;
    if (status != cudaSuccess) return emu_leave(status);
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
        *value = capability() / 10;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = capability() % 10;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = PROCESSORS;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)emu_shared_max();
        break;
    default:
        emu_fail("cudaDeviceGetAttribute: attribute %d is not emulated", (int)attribute);
    }
    return emu_leave(status);
}
