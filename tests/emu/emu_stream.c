// Streams: queues of work, and the order in which it is done: at once, as late as can be, or in a
// random legal order. Legal is what streams, events and the legacy default stream demand, no more,
// so that a test in which an event is missing meets the order that breaks it.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/emu/emu_private.h"
#include "tests/emu/emu_sanitizer.h"

enum { STREAMS_MAX = 64, SYNC_RING = 4096 };

// Work number n of a stream is done when n_done reaches n; the first is 1.
struct work {
    struct emu_work work;
    uint64_t after[STREAMS_MAX]; // what must be done in each stream before
    uint64_t number;
    struct work *next;
};

struct CUstream_st {
    unsigned index;
    bool is_blocking; // orders itself with the legacy default stream
    bool is_destroyed;
    struct work *first, *last;
    uint64_t n_queued, n_done;
    void *tsan;
    char queued_sync[SYNC_RING], done_sync[SYNC_RING]; // addresses for ThreadSanitizer
};

struct CUevent_st {
    cudaStream_t stream; // NULL: not recorded
    uint64_t number;
    bool has_time;
    uint64_t time; // of the clock below, when the work that records it is done
};

static struct {
    cudaStream_t all[STREAMS_MAX];
    unsigned n;
    uint64_t clock; // pieces of work done
    bool is_working;
    struct rng rng;
} streams;

// ---- Doing work ---------------------------------------------------------------------------------

static cudaStream_t new_stream(bool is_blocking)
{
    if (streams.n == STREAMS_MAX) emu_fail("a test made more than %d streams", STREAMS_MAX);
    if (streams.n == 0) rng_init(&streams.rng, emu_mode()->defer);
    cudaStream_t stream = calloc(1, sizeof *stream);
    if (stream == NULL) emu_fail("no memory for a stream");
    stream->index = streams.n;
    stream->is_blocking = is_blocking;
    streams.all[streams.n++] = stream;
    return stream;
}

// The default stream is the first, and is there before any other.
cudaStream_t emu_stream_known(cudaStream_t stream)
{
    if (streams.n == 0) new_stream(true);
    if (stream == cudaStreamPerThread) emu_fail("cudaStreamPerThread is not emulated");
    if (stream == NULL || stream == cudaStreamLegacy) return streams.all[0];
    for (unsigned i = 0; i < streams.n; i++)
        if (streams.all[i] == stream && !stream->is_destroyed) return stream;
    emu_fail("a stream that is none, or was destroyed");
}

static bool may_run(const struct work *work)
{
    for (unsigned i = 0; i < streams.n; i++)
        if (streams.all[i]->n_done < work->after[i]) return false;
    return true;
}

static void run_first(cudaStream_t stream)
{
    struct work *work = stream->first;
    void *caller = NULL;
    if (__tsan_create_fiber != NULL) {
        if (stream->tsan == NULL) stream->tsan = __tsan_create_fiber(0);
        caller = __tsan_get_current_fiber();
        __tsan_switch_to_fiber(stream->tsan, 1);
    }
    emu_acquire(&stream->queued_sync[work->number % SYNC_RING]);
    for (unsigned i = 0; i < streams.n; i++)
        if (work->after[i] > 0) emu_acquire(&streams.all[i]->done_sync[work->after[i] % SYNC_RING]);
    if (work->work.run != NULL) {
        emu_memory_unlock(true);
        streams.is_working = true;
        work->work.run(work->work.arg);
        streams.is_working = false;
        emu_memory_unlock(false);
    }
    if (work->work.drop != NULL) work->work.drop(work->work.arg);
    emu_release(&stream->done_sync[work->number % SYNC_RING]);
    if (caller != NULL) __tsan_switch_to_fiber(caller, 1);
    streams.clock++;
    stream->n_done = work->number;
    stream->first = work->next;
    if (stream->first == NULL) stream->last = NULL;
    free(work);
}

// One piece of work that may run, of a stream picked at random; false when there is none.
static bool run_any(void)
{
    cudaStream_t some[STREAMS_MAX];
    unsigned n = 0;
    for (unsigned i = 0; i < streams.n; i++) {
        cudaStream_t stream = streams.all[i];
        if (stream->first != NULL && may_run(stream->first)) some[n++] = stream;
    }
    if (n > 0) run_first(some[n > 1 ? rng_below(&streams.rng, n) : 0]);
    return n > 0;
}

// Only what that piece of work needs. Waits point back in time, so this ends.
static void run_needed(cudaStream_t stream, uint64_t number)
{
    while (stream->n_done < number) {
        for (unsigned i = 0; i < streams.n; i++)
            run_needed(streams.all[i], stream->first->after[i]);
        run_first(stream);
    }
}

static void finish(cudaStream_t stream, uint64_t number)
{
    if (emu_mode()->defer > 1)
        while (stream->n_done < number)
            run_any();
    else
        run_needed(stream, number);
    if (number > 0) emu_acquire(&stream->done_sync[number % SYNC_RING]);
}

static void push(cudaStream_t stream, const struct emu_work *work, const struct CUevent_st *event)
{
    if (emu_graph_takes(stream, work)) return;
    struct work *added = calloc(1, sizeof *added);
    if (added == NULL) emu_fail("no memory for a stream's work");
    added->work = *work;
    added->number = ++stream->n_queued;
    if (event != NULL) added->after[event->stream->index] = event->number;
    for (unsigned i = 0; i < streams.n; i++) {
        const struct CUstream_st *other = streams.all[i];
        const bool both = other->is_blocking && stream->is_blocking;
        if (other != stream && both && (i == 0 || stream->index == 0) &&
            added->after[i] < other->n_queued)
            added->after[i] = other->n_queued;
    }
    emu_release(&stream->queued_sync[added->number % SYNC_RING]);
    if (stream->last != NULL)
        stream->last->next = added;
    else
        stream->first = added;
    stream->last = added;
    if (emu_mode()->defer == 0)
        while (run_any())
            continue;
    else if (emu_mode()->defer > 1)
        while (rng_below(&streams.rng, 4) == 0 && run_any())
            continue;
}

void emu_stream_push(cudaStream_t stream, const struct emu_work *work)
{
    push(emu_stream_known(stream), work, NULL);
}

void emu_stream_finish(cudaStream_t stream)
{
    stream = emu_stream_known(stream);
    finish(stream, stream->n_queued);
}

void emu_stream_finish_all(void)
{
    for (unsigned i = 0; i < streams.n; i++)
        finish(streams.all[i], streams.all[i]->n_queued);
}

bool emu_stream_is_blocking(cudaStream_t stream)
{
    return stream->is_blocking;
}

bool emu_stream_is_working(void)
{
    return streams.is_working;
}

size_t emu_stream_end(void)
{
    size_t n_left = 0;
    for (unsigned i = 0; i < streams.n; i++) {
        if (i > 0 && !streams.all[i]->is_destroyed) n_left++;
        if (streams.all[i]->tsan != NULL) __tsan_destroy_fiber(streams.all[i]->tsan);
        free(streams.all[i]);
    }
    if (n_left > 0) fprintf(stderr, "emu: %zu streams left\n", n_left);
    memset(&streams, 0, sizeof streams);
    return n_left;
}

// Begins a call that waits.
static cudaError_t enter_waiting(void)
{
    const cudaError_t status = emu_enter(cudaErrorUnknown);
    return status == cudaSuccess ? emu_graph_refuse(false) : status;
}

// ---- Streams of the runtime ---------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    cudaError_t status = emu_enter(cudaErrorMemoryAllocation);
    if (status == cudaSuccess) {
        emu_stream_known(NULL);
        *stream = new_stream((flags & cudaStreamNonBlocking) == 0);
    }
    return emu_leave(status);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority)
{
    (void)priority;
    return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

// What is queued is still done.
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    emu_lock();
    emu_stream_known(stream)->is_destroyed = true;
    return emu_leave(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    cudaError_t status = enter_waiting();
    if (status == cudaSuccess) emu_stream_finish(stream);
    return emu_leave(status);
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    cudaError_t status = enter_waiting();
    run_any();
    stream = emu_stream_known(stream);
    if (status == cudaSuccess && stream->n_done < stream->n_queued) status = cudaErrorNotReady;
    if (status == cudaSuccess) finish(stream, stream->n_queued);
    return emu_leave(status);
}

cudaError_t cudaDeviceSynchronize(void)
{
    cudaError_t status = emu_enter(cudaErrorUnknown);
    if (status == cudaSuccess) status = emu_graph_refuse(true);
    if (status == cudaSuccess) emu_stream_finish_all();
    return emu_leave(status);
}

// ---- Events -------------------------------------------------------------------------------------

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    cudaError_t status = emu_enter(cudaErrorMemoryAllocation);
    if (status == cudaSuccess) {
        *event = calloc(1, sizeof **event);
        if (*event == NULL) emu_fail("no memory for an event");
        (*event)->has_time = (flags & cudaEventDisableTiming) == 0;
        emu_count_handles(1);
    }
    return emu_leave(status);
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    emu_lock();
    // The work that notes the time writes to the event.
    if (event->stream != NULL && event->has_time) finish(event->stream, event->number);
    free(event);
    emu_count_handles(-1);
    return emu_leave(cudaSuccess);
}

static void note_time(void *arg)
{
    struct CUevent_st *event = arg;
    event->time = streams.clock;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    cudaError_t status = emu_enter(cudaErrorUnknown);
    if (status == cudaSuccess) {
        event->stream = emu_stream_known(stream);
        emu_graph_forbid(event->stream, "cudaEventRecord");
        event->number = event->stream->n_queued + 1;
        const struct emu_work work = {"cudaEventRecord", event->has_time ? note_time : NULL, NULL,
                                      event};
        push(event->stream, &work, NULL);
    }
    return emu_leave(status);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    cudaError_t status = emu_enter(cudaErrorUnknown);
    (void)flags;
    const struct emu_work work = {.what = "cudaStreamWaitEvent"};
    stream = emu_stream_known(stream);
    emu_graph_forbid(stream, work.what);
    if (status == cudaSuccess && event->stream != NULL && event->stream != stream)
        push(stream, &work, event);
    return emu_leave(status);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    cudaError_t status = enter_waiting();
    if (status == cudaSuccess && event->stream != NULL) finish(event->stream, event->number);
    return emu_leave(status);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    cudaError_t status = emu_enter(cudaErrorUnknown);
    run_any();
    if (status == cudaSuccess && event->stream != NULL) {
        if (event->stream->n_done < event->number)
            status = cudaErrorNotReady;
        else
            finish(event->stream, event->number);
    }
    return emu_leave(status);
}

// A piece of work takes a microsecond.
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
    cudaError_t status = emu_enter(cudaErrorUnknown);
    if (status == cudaSuccess &&
        !(begin->has_time && end->has_time && begin->stream && end->stream))
        status = cudaErrorInvalidResourceHandle;
    if (status == cudaSuccess &&
        (begin->stream->n_done < begin->number || end->stream->n_done < end->number))
        status = cudaErrorNotReady;
    if (status == cudaSuccess) *ms = 1e-3f * ((float)end->time - (float)begin->time);
    return emu_leave(status);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void *arg)
{
    cudaError_t status = emu_enter(cudaErrorUnknown);
    const struct emu_work work = {"cudaLaunchHostFunc", fn, NULL, arg};
    if (status == cudaSuccess) emu_stream_push(stream, &work);
    return emu_leave(status);
}
