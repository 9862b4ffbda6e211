// The emulated device as a whole: its mode, its lock, the count of its calls, and its end.

#include "tests/emu/emu.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/emu/emu_private.h"
#include "tests/emu/emu_sanitizer.h"

const struct emu_mode emu_modes[] = {
    {.name = "plain"},
    {.name = "reverse", .order = 1, .eager_copies = true, .defer = 1},
    {.name = "swap", .swap = true},
    {.name = "random", .order = 7, .defer = 7},
    {.name = "random, eager copies", .order = 19, .eager_copies = true, .defer = 11},
    {.name = "late, eager copies", .eager_copies = true, .defer = 1},
};
const size_t emu_n_modes = sizeof emu_modes / sizeof emu_modes[0];

static struct {
    pthread_mutex_t lock;
    struct emu_mode mode;
    bool is_begun;
    uint64_t n_calls;
    size_t n_handles; // streams and allocations are counted where they lie
    cudaError_t last_error;
} emu = {.lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP};

void emu_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "emu: error: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    abort();
}

// ThreadSanitizer must not take this lock for an order that the callers have; nor, then, what is
// done under it for theirs.
void emu_lock(void)
{
    if (AnnotateIgnoreSyncBegin != NULL) AnnotateIgnoreSyncBegin(__FILE__, __LINE__);
    pthread_mutex_lock(&emu.lock);
    if (AnnotateIgnoreSyncEnd != NULL) AnnotateIgnoreSyncEnd(__FILE__, __LINE__);
    emu_ignore_begin();
    if (!emu.is_begun) emu_fail("a CUDA call before emu_begin or after emu_end");
    if (emu_stream_is_working()) emu_fail("a CUDA call out of a stream's own work");
}

void emu_unlock(void)
{
    emu_ignore_end();
    if (AnnotateIgnoreSyncBegin != NULL) AnnotateIgnoreSyncBegin(__FILE__, __LINE__);
    pthread_mutex_unlock(&emu.lock);
    if (AnnotateIgnoreSyncEnd != NULL) AnnotateIgnoreSyncEnd(__FILE__, __LINE__);
}

cudaError_t emu_enter(cudaError_t error)
{
    emu_lock();
    return ++emu.n_calls == emu.mode.fail_call ? error : cudaSuccess;
}

cudaError_t emu_leave(cudaError_t status)
{
    if (status != cudaSuccess && status != cudaErrorNotReady) emu.last_error = status;
    emu_unlock();
    return status;
}

cudaError_t emu_last_error(bool forget)
{
    emu_lock();
    cudaError_t status = emu.last_error;
    if (forget) emu.last_error = cudaSuccess;
    emu_unlock();
    return status;
}

void emu_count_handles(int change)
{
    emu.n_handles += (size_t)(ptrdiff_t)change;
}

const struct emu_mode *emu_mode(void)
{
    return &emu.mode;
}

uint64_t emu_calls(void)
{
    return emu.n_calls;
}

void emu_begin(const struct emu_mode *mode)
{
    if (emu.is_begun) { // by a test that failed half way
        emu_graph_end();
        emu_stream_end();
        emu_memory_end();
        emu_device_end();
    }
    emu.mode = *mode;
    emu.is_begun = true;
    emu.n_calls = 0;
    emu.n_handles = 0;
    emu.last_error = cudaSuccess;
    emu_graph_begin();
}

size_t emu_end(void)
{
    emu_lock();
    emu_graph_end();
    emu_stream_finish_all();
    size_t n_left = emu.n_handles + emu_stream_end() + emu_memory_end();
    if (emu.n_handles > 0) fprintf(stderr, "emu: %zu events or handles left\n", emu.n_handles);
    emu_device_end();
    emu.is_begun = false;
    emu_unlock();
    return n_left;
}
