// The emulated streams: what must come in order does, in every mode, and what need not, does not.

#include "tests/gpu/gpu_rig.h"

#include <pthread.h>

enum { STEPS = 60, STREAMS = 4 };

// Host functions of several streams write down in which order they ran.
static struct {
    int steps[STREAMS * STEPS];
    int n;
} trace;

// Of streams that nothing orders: a race, by intent.
__attribute__((no_sanitize("thread"))) static void note(void *arg)
{
    trace.steps[trace.n++] = *(int *)arg;
}

static const struct emu_mode *mode_named(const char *name)
{
    for (size_t i = 0; i < emu_n_modes; i++)
        if (strcmp(emu_modes[i].name, name) == 0) return &emu_modes[i];
    fail_msg("no mode %s", name);
    return NULL;
}

static cudaEvent_t open_event(void)
{
    cudaEvent_t event = NULL;
    gpu_ok(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return event;
}

// Step i of stream s is called s * STEPS + i.
static void run_independent(void)
{
    static int names[STREAMS * STEPS];
    cudaStream_t streams[STREAMS];
    trace.n = 0;
    for (int s = 0; s < STREAMS; s++)
        streams[s] = gpu_new_stream();
    for (int i = 0; i < STEPS; i++)
        for (int s = 0; s < STREAMS; s++) {
            names[s * STEPS + i] = s * STEPS + i;
            gpu_ok(cudaLaunchHostFunc(streams[s], note, &names[s * STEPS + i]));
        }
    gpu_ok(cudaDeviceSynchronize());
    for (int s = 0; s < STREAMS; s++)
        gpu_ok(cudaStreamDestroy(streams[s]));
    assert_int_equal(trace.n, STREAMS * STEPS);
    int next[STREAMS] = {0};
    for (int i = 0; i < trace.n; i++)
        assert_int_equal(trace.steps[i] % STEPS, next[trace.steps[i] / STEPS]++);
}

GPU_TEST(independent)

// How often the trace goes from one stream to another.
static int changes(const struct emu_mode *mode)
{
    int n = 0;
    emu_begin(mode);
    run_independent();
    assert_int_equal(emu_end(), 0);
    for (int i = 1; i < trace.n; i++)
        n += trace.steps[i] / STEPS != trace.steps[i - 1] / STEPS;
    return n;
}

// At once: as they were queued. Late: a stream at a time. Seeds: neither, each its own, and always
// the same.
static void test_orders(void **state)
{
    (void)state;
    struct emu_mode mode = {.name = "seed", .defer = 5};
    int first[STREAMS * STEPS], second[STREAMS * STEPS];
    assert_int_equal(changes(mode_named("plain")), STREAMS * STEPS - 1);
    assert_int_equal(changes(mode_named("late, eager copies")), STREAMS - 1);
    const int n = changes(&mode);
    assert_true(n > STREAMS && n < STREAMS * STEPS - 1);
    memcpy(first, trace.steps, sizeof first);
    assert_int_equal(changes(&mode), n);
    assert_memory_equal(first, trace.steps, sizeof first);
    mode.defer = 6;
    changes(&mode);
    memcpy(second, trace.steps, sizeof second);
    assert_memory_not_equal(first, second, sizeof first);
}

// A waits for what B has done before its event, not for more.
static void test_events(void **state)
{
    (void)state;
    for (uint32_t seed = 0; seed < 40; seed++) {
        const struct emu_mode mode = {.name = "seed", .defer = seed};
        int names[] = {0, 1, 2, 3};
        emu_begin(&mode);
        cudaStream_t a = gpu_new_stream(), b = gpu_new_stream();
        cudaEvent_t event = open_event();
        trace.n = 0;
        gpu_ok(cudaStreamWaitEvent(a, event, 0)); // not recorded: no wait
        gpu_ok(cudaLaunchHostFunc(b, note, &names[0]));
        gpu_ok(cudaEventRecord(event, b));
        gpu_ok(cudaLaunchHostFunc(b, note, &names[2]));
        gpu_ok(cudaStreamWaitEvent(a, event, 0));
        gpu_ok(cudaLaunchHostFunc(a, note, &names[1]));
        gpu_ok(cudaEventRecord(event, b)); // anew: the wait was for the earlier
        gpu_ok(cudaStreamSynchronize(a));
        assert_true(trace.n >= 2 && trace.steps[0] == 0);
        if (seed == 1) assert_int_equal(trace.n, 2);
        gpu_ok(cudaEventSynchronize(event));
        assert_int_equal(trace.n, 3);
        gpu_ok(cudaEventDestroy(event));
        gpu_ok(cudaStreamDestroy(a));
        gpu_ok(cudaStreamDestroy(b));
        assert_int_equal(emu_end(), 0);
    }
}

// The default stream comes after what blocking streams hold, and they after it; others do not care.
static void test_default_stream(void **state)
{
    (void)state;
    bool was_free = false;
    for (uint32_t seed = 0; seed < 40; seed++) {
        const struct emu_mode mode = {.name = "seed", .defer = seed};
        int names[] = {0, 1, 2, 3};
        emu_begin(&mode);
        cudaStream_t blocking = NULL, other = gpu_new_stream();
        gpu_ok(cudaStreamCreate(&blocking));
        trace.n = 0;
        gpu_ok(cudaLaunchHostFunc(other, note, &names[3]));
        gpu_ok(cudaLaunchHostFunc(blocking, note, &names[0]));
        gpu_ok(cudaLaunchHostFunc(NULL, note, &names[1]));
        gpu_ok(cudaLaunchHostFunc(blocking, note, &names[2]));
        gpu_ok(cudaStreamSynchronize(blocking));
        int next = 0;
        for (int i = 0; i < trace.n; i++)
            if (trace.steps[i] != 3) assert_int_equal(trace.steps[i], next++);
        assert_int_equal(next, 3);
        was_free = was_free || trace.n == 3 || trace.steps[0] != 3;
        gpu_ok(cudaStreamDestroy(blocking));
        gpu_ok(cudaStreamDestroy(other));
        assert_int_equal(emu_end(), 0);
    }
    assert_true(was_free);
}

// Asking does not wait, but what is asked for comes in the end.
static void run_query(void)
{
    int names[] = {0, 1};
    float ms = -1;
    cudaStream_t stream = gpu_new_stream();
    cudaEvent_t begin = NULL, end = NULL, plain = open_event();
    gpu_ok(cudaEventCreate(&begin));
    gpu_ok(cudaEventCreate(&end));
    trace.n = 0;
    assert_int_equal(cudaEventQuery(end), cudaSuccess); // never recorded
    gpu_ok(cudaEventRecord(begin, stream));
    gpu_ok(cudaLaunchHostFunc(stream, note, &names[0]));
    gpu_ok(cudaLaunchHostFunc(stream, note, &names[1]));
    gpu_ok(cudaEventRecord(end, stream));
    cudaError_t status = cudaErrorNotReady;
    for (int i = 0; i < 100 && status == cudaErrorNotReady; i++)
        status = cudaEventQuery(end);
    gpu_ok(status);
    assert_int_equal(trace.n, 2);
    gpu_ok(cudaStreamQuery(stream));
    gpu_ok(cudaEventElapsedTime(&ms, begin, end));
    assert_true(ms > 0);
    assert_int_equal(cudaEventElapsedTime(&ms, begin, plain), cudaErrorInvalidResourceHandle);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidResourceHandle);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    gpu_ok(cudaEventDestroy(begin));
    gpu_ok(cudaEventDestroy(end));
    gpu_ok(cudaEventDestroy(plain));
    gpu_ok(cudaStreamDestroy(stream));
}

GPU_TEST(query)

// Late: the work of a stream that nobody waits for is done all the same, when the device ends.
static void test_destroyed(void **state)
{
    (void)state;
    int names[] = {0};
    emu_begin(mode_named("late, eager copies"));
    cudaStream_t stream = gpu_new_stream();
    trace.n = 0;
    gpu_ok(cudaLaunchHostFunc(stream, note, &names[0]));
    assert_int_equal(cudaStreamQuery(stream), cudaSuccess); // the query did a piece of work
    gpu_ok(cudaLaunchHostFunc(stream, note, &names[0]));
    gpu_ok(cudaStreamDestroy(stream));
    assert_int_equal(trace.n, 1);
    assert_int_equal(emu_end(), 0);
    assert_int_equal(trace.n, 2);
}

// ---- Graphs -------------------------------------------------------------------------------------

// A note, a copy there and back, a note.
static cudaGraphExec_t record_copies(cudaStream_t stream, int *names, char *dev, char *pinned)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    gpu_ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    gpu_ok(cudaLaunchHostFunc(stream, note, &names[0]));
    gpu_ok(cudaMemcpyAsync(dev, pinned, 1, cudaMemcpyHostToDevice, stream));
    gpu_ok(cudaMemcpyAsync(pinned + 1, dev, 1, cudaMemcpyDeviceToHost, stream));
    gpu_ok(cudaLaunchHostFunc(stream, note, &names[1]));
    gpu_ok(cudaStreamEndCapture(stream, &graph));
    gpu_ok(cudaGraphInstantiate(&exec, graph, 0));
    gpu_ok(cudaGraphDestroy(graph));
    return exec;
}

static void run_graph(void)
{
    int names[] = {0, 1};
    char *pinned = NULL, *dev = gpu_new(1);
    cudaStream_t stream = gpu_new_stream();
    gpu_ok(cudaMallocHost((void **)&pinned, 2));
    trace.n = 0;
    pinned[1] = 7;
    cudaGraphExec_t exec = record_copies(stream, names, dev, pinned);
    gpu_ok(cudaStreamSynchronize(stream));
    assert_int_equal(trace.n, 0); // recorded is not done
    assert_int_equal(pinned[1], 7);
    for (int launch = 0; launch < 2; launch++) {
        pinned[0] = (char)launch;
        gpu_ok(cudaGraphLaunch(exec, stream));
        if (launch == 1) gpu_ok(cudaGraphExecDestroy(exec)); // what is under way goes on
        gpu_ok(cudaStreamSynchronize(stream));
        assert_int_equal(trace.n, 2 * (launch + 1));
        assert_int_equal(trace.steps[2 * launch], 0);
        assert_int_equal(trace.steps[2 * launch + 1], 1);
        assert_int_equal(pinned[1], launch);
    }
    gpu_ok(cudaFreeHost(pinned));
    gpu_ok(cudaFree(dev));
    gpu_ok(cudaStreamDestroy(stream));
}

GPU_TEST(graph)

struct forbidden {
    cudaStream_t stream;
    cudaEvent_t event;
    void *dev;
    char *pinned;
};

static cudaError_t call_forbidden(const struct forbidden *f, int which)
{
    void *dev;
    switch (which) {
    case 0:
        return cudaStreamSynchronize(f->stream);
    case 1:
        return cudaStreamQuery(f->stream);
    case 2:
        return cudaEventSynchronize(f->event);
    case 3:
        return cudaMalloc(&dev, 1);
    case 4:
        return cudaFree(f->dev);
    case 5:
        return cudaMemcpy(f->dev, f->pinned, 1, cudaMemcpyHostToDevice);
    default:
        return cudaDeviceSynchronize();
    }
}

static void *call_from_thread(void *arg)
{
    const struct forbidden *f = arg;
    void *dev = NULL;
    const bool is_good = cudaEventSynchronize(f->event) == cudaSuccess &&
                         cudaMalloc(&dev, 1) == cudaSuccess && cudaFree(dev) == cudaSuccess;
    return is_good ? arg : NULL;
}

// The thread that records a stream may not wait meanwhile: the recording is spoilt. Other threads
// may, but for the whole device.
static void run_spoilt(void)
{
    enum { CALLS = 7 };
    struct forbidden f = {gpu_new_stream(), open_event(), gpu_new(1), NULL};
    cudaGraph_t graph = NULL;
    enum cudaStreamCaptureStatus capture;
    gpu_ok(cudaMallocHost((void **)&f.pinned, 1));
    assert_int_equal(cudaStreamEndCapture(f.stream, &graph), cudaErrorIllegalState);
    for (int i = 0; i < CALLS; i++) {
        gpu_ok(cudaStreamBeginCapture(f.stream, cudaStreamCaptureModeThreadLocal));
        assert_int_equal(call_forbidden(&f, i), cudaErrorStreamCaptureUnsupported);
        gpu_ok(cudaStreamIsCapturing(f.stream, &capture));
        assert_int_equal(capture, cudaStreamCaptureStatusInvalidated);
        assert_int_equal(cudaStreamEndCapture(f.stream, &graph), cudaErrorStreamCaptureInvalidated);
        assert_null(graph);
        gpu_ok(cudaStreamIsCapturing(f.stream, &capture));
        assert_int_equal(capture, cudaStreamCaptureStatusNone);
    }
    pthread_t thread;
    void *result = NULL;
    gpu_ok(cudaStreamBeginCapture(f.stream, cudaStreamCaptureModeThreadLocal));
    assert_int_equal(pthread_create(&thread, NULL, call_from_thread, &f), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_ptr_equal(result, &f);
    gpu_ok(cudaStreamEndCapture(f.stream, &graph));
    gpu_ok(cudaGraphDestroy(graph));
    gpu_ok(cudaEventDestroy(f.event));
    gpu_ok(cudaFree(f.dev));
    gpu_ok(cudaFreeHost(f.pinned));
    gpu_ok(cudaStreamDestroy(f.stream));
}

GPU_TEST(spoilt)

// ---- Threads of the host ------------------------------------------------------------------------

enum { BYTES = 4096, ROUNDS = 50 };

// Its own stream and its own memory; the device is everyone's.
static void *use_stream(void *arg)
{
    unsigned char *pinned = NULL, *dev = NULL;
    const unsigned char value = *(unsigned char *)arg;
    cudaStream_t stream = NULL;
    bool is_good = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess &&
                   cudaMallocHost((void **)&pinned, BYTES) == cudaSuccess &&
                   cudaMalloc((void **)&dev, BYTES) == cudaSuccess;
    for (int round = 0; round < ROUNDS && is_good; round++) {
        memset(pinned, 0, BYTES);
        is_good =
            cudaMemsetAsync(dev, value + round, BYTES, stream) == cudaSuccess &&
            cudaMemcpyAsync(pinned, dev, BYTES, cudaMemcpyDeviceToHost, stream) == cudaSuccess &&
            cudaStreamSynchronize(stream) == cudaSuccess;
        for (int i = 0; i < BYTES && is_good; i++)
            is_good = pinned[i] == (unsigned char)(value + round);
    }
    cudaFree(dev);
    cudaFreeHost(pinned);
    cudaStreamDestroy(stream);
    return is_good ? arg : NULL;
}

static void run_threads(void)
{
    enum { THREADS = 3 };
    pthread_t threads[THREADS];
    unsigned char values[THREADS];
    for (int i = 0; i < THREADS; i++) {
        values[i] = (unsigned char)(60 * i);
        assert_int_equal(pthread_create(&threads[i], NULL, use_stream, &values[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        void *result = NULL;
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_ptr_equal(result, &values[i]);
    }
}

GPU_TEST(threads)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_independent), cmocka_unit_test(test_orders),
        cmocka_unit_test(test_events),      cmocka_unit_test(test_default_stream),
        cmocka_unit_test(test_query),       cmocka_unit_test(test_destroyed),
        cmocka_unit_test(test_graph),       cmocka_unit_test(test_spoilt),
        cmocka_unit_test(test_threads),
    };
    return check_run("t_emu_streams", tests, sizeof tests / sizeof tests[0]);
}
