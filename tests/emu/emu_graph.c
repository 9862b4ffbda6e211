// Graphs, recorded from one stream at a time: what it was given, in that order, as one piece of
// work. What CUDA lets a recording do beyond that (other streams, events, nodes of its own) ends
// the test.

#include <pthread.h>
#include <stdlib.h>

#include "tests/emu/emu_private.h"

struct CUgraph_st {
    struct emu_work *works;
    size_t n;
    size_t n_users; // the graph, what was instantiated from it, and launches of that under way
};

// What is instantiated is the graph itself: nothing here changes one.
static struct CUgraph_st *graph_of(cudaGraphExec_t exec)
{
    return (struct CUgraph_st *)exec;
}

static void leave(void *arg)
{
    struct CUgraph_st *graph = arg;
    if (--graph->n_users > 0) return;
    for (size_t i = 0; i < graph->n; i++)
        if (graph->works[i].drop != NULL) graph->works[i].drop(graph->works[i].arg);
    free(graph->works);
    free(graph);
}

static void run_graph(void *arg)
{
    const struct CUgraph_st *graph = arg;
    for (size_t i = 0; i < graph->n; i++)
        graph->works[i].run(graph->works[i].arg);
}

// ---- Recording ----------------------------------------------------------------------------------

static struct {
    cudaStream_t stream;
    pthread_t thread;  // that records
    cudaGraph_t graph; // NULL: none is recorded
    bool is_spoilt;
    uint64_t n_launches;
} recording;

uint64_t emu_graph_launches(void)
{
    return recording.n_launches;
}

void emu_graph_begin(void)
{
    recording.n_launches = 0;
}

static void stop_recording(void)
{
    if (recording.graph != NULL) leave(recording.graph);
    recording.graph = NULL;
}

void emu_graph_end(void)
{
    stop_recording();
}

bool emu_graph_records(cudaStream_t stream)
{
    return recording.graph != NULL && recording.stream == stream;
}

void emu_graph_forbid(cudaStream_t stream, const char *call)
{
    if (emu_graph_records(stream)) emu_fail("%s is recorded, which is not emulated", call);
}

bool emu_graph_takes(cudaStream_t stream, const struct emu_work *work)
{
    if (!emu_graph_records(stream)) return false;
    cudaGraph_t graph = recording.graph;
    struct emu_work *works = realloc(graph->works, (graph->n + 1) * sizeof *works);
    if (works == NULL) emu_fail("no memory for a graph");
    works[graph->n++] = *work;
    graph->works = works;
    return true;
}

static bool is_recording_thread(void)
{
    return pthread_equal(recording.thread, pthread_self()) != 0;
}

cudaError_t emu_graph_refuse(bool of_any_thread)
{
    if (recording.graph == NULL || !(of_any_thread || is_recording_thread())) return cudaSuccess;
    recording.is_spoilt = true;
    return cudaErrorStreamCaptureUnsupported;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    cudaError_t status = emu_enter(cudaErrorUnknown);
    stream = emu_stream_known(stream);
    if (mode != cudaStreamCaptureModeThreadLocal || emu_stream_is_blocking(stream))
        emu_fail("what is recorded is a non-blocking stream, for its thread: the rest is not "
                 "emulated");
    if (recording.graph != NULL) emu_fail("two recordings at a time are not emulated");
    if (status == cudaSuccess) {
        recording.stream = stream;
        recording.thread = pthread_self();
        recording.is_spoilt = false;
        recording.graph = calloc(1, sizeof *recording.graph);
        if (recording.graph == NULL) emu_fail("no memory for a graph");
        recording.graph->n_users = 1;
    }
    return emu_leave(status);
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    cudaError_t status = emu_enter(cudaErrorUnknown);
    *graph = NULL;
    if (!emu_graph_records(stream)) {
        status = cudaErrorIllegalState;
    } else if (!is_recording_thread()) {
        status = cudaErrorStreamCaptureWrongThread;
    } else if (status != cudaSuccess || recording.is_spoilt) {
        stop_recording();
        if (status == cudaSuccess) status = cudaErrorStreamCaptureInvalidated;
    } else {
        *graph = recording.graph;
        recording.graph = NULL;
        emu_count_handles(1);
    }
    return emu_leave(status);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *capture)
{
    cudaError_t status = emu_enter(cudaErrorUnknown);
    *capture = cudaStreamCaptureStatusNone;
    if (emu_graph_records(emu_stream_known(stream)))
        *capture = recording.is_spoilt ? cudaStreamCaptureStatusInvalidated
                                       : cudaStreamCaptureStatusActive;
    return emu_leave(status);
}

// ---- Graphs -------------------------------------------------------------------------------------

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
    cudaError_t status = emu_enter(cudaErrorMemoryAllocation);
    if (status == cudaSuccess && flags != 0) status = cudaErrorInvalidValue;
    if (status == cudaSuccess) {
        graph->n_users++;
        *exec = (cudaGraphExec_t)graph;
        emu_count_handles(1);
    }
    return emu_leave(status);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    cudaError_t status = emu_enter(cudaErrorLaunchFailure);
    if (status == cudaSuccess) {
        const struct emu_work work = {"cudaGraphLaunch", run_graph, leave, graph_of(exec)};
        graph_of(exec)->n_users++;
        recording.n_launches++;
        emu_stream_push(stream, &work);
    }
    return emu_leave(status);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    emu_lock();
    leave(graph_of(exec));
    emu_count_handles(-1);
    return emu_leave(cudaSuccess);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    emu_lock();
    leave(graph);
    emu_count_handles(-1);
    return emu_leave(cudaSuccess);
}
