// Bugs of the host's side: streams, events, pinned memory, pointers, sizes.

#include "tests/gpu/gpu_rig.h"

#include <cublas_v2.h>

#include "gpu/dialect.cuh"
#include "tests/emu/bugs.h"

enum { COUNT = 64, ROUNDS = 6, SLOTS = 2 };
static const size_t count_bytes = COUNT * sizeof(int);
static const gpu_grid grid = {{1, 1, 1}, COUNT, 0};

__global__ void add_kernel(const int *in, int *out)
{
    out[threadIdx.x] += in[threadIdx.x];
}

struct add_args {
    const int *in;
    int n;
    int *out;
};

__global__ void add_args_kernel(add_args args)
{
    if (static_cast<int>(threadIdx.x) < args.n) args.out[threadIdx.x] += args.in[threadIdx.x];
}

__global__ void write_and_meet_kernel(const int *in, int *out)
{
    out[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
}

__global__ void meet_and_read_kernel(const int *in, int *out)
{
    __syncthreads();
    out[threadIdx.x] = in[threadIdx.x];
}

static int *new_ints(int value)
{
    int host[COUNT];
    for (int &x : host)
        x = value;
    return static_cast<int *>(gpu_put(host, sizeof host));
}

static bool all_are(const int *dev, int value)
{
    int host[COUNT];
    gpu_get(host, dev, sizeof host);
    for (int x : host)
        if (x != value) return false;
    return true;
}

// ---- A ring of buffers between a stream that copies and one that computes -----------------------

struct ring {
    cudaStream_t copies, kernels;
    cudaEvent_t copied[SLOTS], used[SLOTS];
    int *pinned[SLOTS], *dev[SLOTS], *sum;
};

static void open_ring(ring *ring)
{
    ring->copies = gpu_new_stream();
    ring->kernels = gpu_new_stream();
    ring->sum = new_ints(0);
    for (int i = 0; i < SLOTS; i++) {
        void *pinned = NULL;
        gpu_ok(cudaHostAlloc(&pinned, count_bytes, cudaHostAllocDefault));
        ring->pinned[i] = static_cast<int *>(pinned);
        ring->dev[i] = new_ints(0);
        gpu_ok(cudaEventCreateWithFlags(&ring->copied[i], cudaEventDisableTiming));
        gpu_ok(cudaEventCreateWithFlags(&ring->used[i], cudaEventDisableTiming));
    }
}

enum missing { NOTHING, COPIED_BEFORE_USE, USED_BEFORE_COPY, COPIED_BEFORE_FILL, RECORD_TOO_EARLY };

static void fill_slot(const ring *ring, int round, missing missing)
{
    const int slot = round % SLOTS;
    if (round >= SLOTS && missing != COPIED_BEFORE_FILL)
        gpu_ok(cudaEventSynchronize(ring->copied[slot]));
    for (int i = 0; i < COUNT; i++)
        ring->pinned[slot][i] = round + 1;
    if (round >= SLOTS && missing != USED_BEFORE_COPY)
        gpu_ok(cudaStreamWaitEvent(ring->copies, ring->used[slot], 0));
    if (missing == RECORD_TOO_EARLY) gpu_ok(cudaEventRecord(ring->copied[slot], ring->copies));
    gpu_ok(cudaMemcpyAsync(ring->dev[slot], ring->pinned[slot], count_bytes, cudaMemcpyHostToDevice,
                           ring->copies));
    if (missing != RECORD_TOO_EARLY) gpu_ok(cudaEventRecord(ring->copied[slot], ring->copies));
}

static bool run_ring(missing missing)
{
    ring ring;
    int want = 0;
    open_ring(&ring);
    for (int round = 0; round < ROUNDS; round++) {
        const int slot = round % SLOTS;
        fill_slot(&ring, round, missing);
        if (missing != COPIED_BEFORE_USE)
            gpu_ok(cudaStreamWaitEvent(ring.kernels, ring.copied[slot], 0));
        gpu_ok(LAUNCH(add_kernel, grid, ring.kernels, ring.dev[slot], ring.sum));
        gpu_ok(cudaEventRecord(ring.used[slot], ring.kernels));
        want += round + 1;
    }
    gpu_ok(cudaStreamSynchronize(ring.kernels));
    return all_are(ring.sum, want);
}

#define RING_BUG(name, what)                                                                       \
    static bool name(const bug *, bool is_planted)                                                 \
    {                                                                                              \
        return run_ring(is_planted ? what : NOTHING);                                              \
    }
RING_BUG(no_event_before_use, COPIED_BEFORE_USE)
RING_BUG(no_event_before_copy, USED_BEFORE_COPY)
RING_BUG(pinned_filled_too_early, COPIED_BEFORE_FILL)
RING_BUG(event_before_its_copy, RECORD_TOO_EARLY)

// ---- Waiting ------------------------------------------------------------------------------------

static bool result_before_wait(const bug *, bool is_planted)
{
    void *pinned = NULL;
    int *dev = new_ints(7);
    cudaStream_t stream = gpu_new_stream();
    gpu_ok(cudaMallocHost(&pinned, count_bytes));
    gpu_ok(cudaMemcpyAsync(pinned, dev, count_bytes, cudaMemcpyDeviceToHost, stream));
    if (!is_planted) gpu_ok(cudaStreamSynchronize(stream));
    const bool is_right = static_cast<int *>(pinned)[5] == 7;
    gpu_ok(cudaStreamSynchronize(stream));
    return is_right;
}

// A stream that does not block takes no notice of the default one.
static bool default_stream_is_no_order(const bug *, bool is_planted)
{
    int *in = new_ints(1), *out = new_ints(0);
    cudaStream_t stream = gpu_new_stream();
    gpu_ok(LAUNCH(add_kernel, grid, stream, in, out));
    if (!is_planted) gpu_ok(cudaStreamSynchronize(stream));
    gpu_ok(cudaMemcpyAsync(in, out, count_bytes, cudaMemcpyDeviceToDevice, NULL));
    gpu_ok(cudaDeviceSynchronize());
    return all_are(in, 1);
}

// The call returns before the copy is done when the host cannot see that.
static bool copy_and_add(const void *from, bool is_planted)
{
    int *in = new_ints(1), *out = new_ints(0);
    cudaStream_t stream = gpu_new_stream();
    gpu_ok(cudaMemcpy(in, from, count_bytes, cudaMemcpyDefault));
    if (!is_planted) gpu_ok(cudaStreamSynchronize(NULL));
    gpu_ok(LAUNCH(add_kernel, grid, stream, in, out));
    gpu_ok(cudaStreamSynchronize(stream));
    return all_are(out, 0);
}

static bool copy_on_device_is_no_wait(const bug *, bool is_planted)
{
    return copy_and_add(new_ints(0), is_planted);
}

static bool copy_of_pageable_is_no_wait(const bug *, bool is_planted)
{
    const int zeros[COUNT] = {0};
    return copy_and_add(zeros, is_planted);
}

// One stream's kernel reads what another's writes, or else both read the same. Barriers are no
// order between them.
static bool no_event_between_kernels(const bug *, bool is_planted)
{
    int *a = new_ints(1), *b = new_ints(0), *out = new_ints(0);
    cudaStream_t first = gpu_new_stream(), second = gpu_new_stream();
    gpu_ok(LAUNCH(write_and_meet_kernel, grid, first, a, b));
    gpu_ok(LAUNCH(meet_and_read_kernel, grid, second, is_planted ? b : a, out));
    gpu_ok(cudaStreamSynchronize(second));
    gpu_ok(cudaStreamSynchronize(first));
    return all_are(out, 1);
}

// ---- Pointers and lifetimes ---------------------------------------------------------------------

static bool host_reads_device(const bug *, bool is_planted)
{
    int *dev = new_ints(3), first = 0;
    if (is_planted)
        first = *static_cast<volatile int *>(dev);
    else
        gpu_get(&first, dev, sizeof first);
    return first == 3;
}

static bool kernel_gets_host_pointer(const bug *, bool is_planted)
{
    int host[COUNT] = {0}, *dev = new_ints(0), *out = new_ints(0);
    gpu_ok(LAUNCH(add_kernel, grid, NULL, is_planted ? host : dev, out));
    return all_are(out, 0);
}

static bool struct_holds_host_pointer(const bug *, bool is_planted)
{
    int *dev = new_ints(0), *out = new_ints(0);
    int *host = static_cast<int *>(calloc(COUNT, sizeof(int)));
    const add_args args = {is_planted ? host : dev, COUNT, out};
    gpu_ok(LAUNCH(add_args_kernel, grid, NULL, args));
    free(host);
    return all_are(out, 0);
}

static bool use_after_free(const bug *, bool is_planted)
{
    int *in = new_ints(1), *out = new_ints(0);
    const add_args args = {in, COUNT, out};
    if (is_planted) gpu_ok(cudaFree(in));
    gpu_ok(LAUNCH(add_args_kernel, grid, NULL, args));
    return all_are(out, 1);
}

// One stream frees, in its order, what another still reads.
static bool free_before_use(const bug *, bool is_planted)
{
    int *in = new_ints(1), *out = new_ints(0);
    cudaStream_t a = gpu_new_stream(), b = gpu_new_stream();
    gpu_ok(LAUNCH(add_kernel, grid, a, in, out));
    if (!is_planted) gpu_ok(cudaStreamSynchronize(a));
    gpu_ok(cudaFreeAsync(in, b));
    gpu_ok(cudaStreamSynchronize(b));
    gpu_ok(cudaStreamSynchronize(a));
    return all_are(out, 1);
}

// One stream uses what another has not allocated yet.
static bool use_before_malloc(const bug *, bool is_planted)
{
    void *out = NULL;
    cudaStream_t a = gpu_new_stream(), b = gpu_new_stream();
    gpu_ok(cudaMallocAsync(&out, count_bytes, a));
    if (!is_planted) gpu_ok(cudaStreamSynchronize(a));
    gpu_ok(cudaMemsetAsync(out, 0, count_bytes, b));
    gpu_ok(cudaStreamSynchronize(b));
    gpu_ok(cudaStreamSynchronize(a));
    return all_are(static_cast<int *>(out), 0);
}

static bool unwritten_device_memory(const bug *, bool is_planted)
{
    int *in = new_ints(1), *out = static_cast<int *>(gpu_new(count_bytes));
    if (!is_planted) gpu_ok(cudaMemset(out, 0, count_bytes));
    gpu_ok(LAUNCH(add_kernel, grid, NULL, in, out));
    return all_are(out, 1);
}

// ---- Sizes and kinds ----------------------------------------------------------------------------

static bool copy_of_wrong_kind(const bug *, bool is_planted)
{
    int *a = new_ints(4), *b = new_ints(0);
    gpu_ok(cudaMemcpy(b, a, count_bytes,
                      is_planted ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToDevice));
    return all_are(b, 4);
}

// The kernel asks for more than 48 KiB without saying so first; and the error is not looked at.
static bool shared_without_attribute(const bug *, bool is_planted)
{
    const gpu_grid large = {{1, 1, 1}, COUNT, 60 * 1024};
    int *in = new_ints(1), *out = new_ints(0);
    if (!is_planted)
        gpu_ok(cudaFuncSetAttribute(reinterpret_cast<const void *>(add_kernel),
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, 60 * 1024));
    (void)LAUNCH(add_kernel, large, NULL, in, out);
    return all_are(out, 1);
}

// 44 KiB may be asked for without saying so, but not beside 8 KiB of static memory.
__global__ void static_and_dynamic(int *out)
{
    SHARED_ARRAY(int, values, 2048);
    SHARED_DYNAMIC(more);
    values[threadIdx.x] = 1;
    more[threadIdx.x] = 1;
    out[threadIdx.x] = values[threadIdx.x] + more[threadIdx.x];
}

static bool shared_together(const bug *, bool is_planted)
{
    const gpu_grid large = {{1, 1, 1}, COUNT, (is_planted ? 44u : 4u) * 1024};
    int *out = new_ints(0);
    gpu_ok(LAUNCH(static_and_dynamic, large, NULL, out));
    return all_are(out, 2);
}

static bool block_too_large(const bug *, bool is_planted)
{
    const gpu_grid large = {{1, 1, 1}, static_cast<uint32_t>(is_planted ? 2048 : int{COUNT}), 0};
    int *in = new_ints(1), *out = new_ints(0);
    (void)LAUNCH(add_kernel, large, NULL, in, out);
    return all_are(out, 1);
}

// [8, 8] matrices, one of which is said to have rows further apart.
static bool wrong_leading_dimension(const bug *, bool is_planted)
{
    const float one = 1, zero = 0;
    cublasHandle_t handle = NULL;
    int *a = new_ints(0), *b = new_ints(0), *c = new_ints(1);
    if (cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS) return false;
    const cublasStatus_t status = cublasGemmEx(
        handle, CUBLAS_OP_T, CUBLAS_OP_N, 8, 8, 8, &one, a, CUDA_R_32F, is_planted ? 9 : 8, b,
        CUDA_R_32F, 8, &zero, c, CUDA_R_32F, 8, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    return status == CUBLAS_STATUS_SUCCESS && all_are(c, 0);
}

static bool product_of_host_memory(const bug *, bool is_planted)
{
    const float one = 1, zero = 0, host[4] = {0};
    cublasHandle_t handle = NULL;
    int *a = new_ints(0), *c = new_ints(1);
    if (cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS) return false;
    const void *b = is_planted ? static_cast<const void *>(host) : a;
    const cublasStatus_t status = cublasGemmEx(
        handle, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &one, a, CUDA_R_32F, 2, b, CUDA_R_32F, 2, &zero,
        c, CUDA_R_32F, 2, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    int first = 1;
    gpu_get(&first, c, sizeof first);
    return status == CUBLAS_STATUS_SUCCESS && first == 0;
}

static bool call_from_host_function(const bug *, bool is_planted)
{
    static cudaError_t error;
    const cudaHostFn_t asks = [](void *) { error = cudaPeekAtLastError(); };
    const cudaHostFn_t rests = [](void *) { error = cudaSuccess; };
    gpu_ok(cudaLaunchHostFunc(NULL, is_planted ? asks : rests, NULL));
    gpu_ok(cudaDeviceSynchronize());
    return error == cudaSuccess;
}

#define BUG(name, caught, says)                                                                    \
    {                                                                                              \
#        name, caught, says, name, NULL, NULL                                                      \
    }
const struct bug host_bugs[] = {
    BUG(no_event_before_use, REVERSE | RANDOM | LATE | TSAN, NULL),
    BUG(no_event_before_copy, REVERSE | RANDOM | LATE | TSAN, NULL),
    BUG(pinned_filled_too_early, REVERSE | RANDOM | LATE | TSAN, NULL),
    BUG(event_before_its_copy, REVERSE | LATE | TSAN, NULL),
    BUG(result_before_wait, REVERSE | LATE | TSAN, NULL),
    BUG(default_stream_is_no_order, REVERSE | LATE | TSAN, NULL),
    BUG(copy_on_device_is_no_wait, REVERSE | LATE | TSAN, NULL),
    BUG(copy_of_pageable_is_no_wait, REVERSE | LATE | TSAN, NULL),
    BUG(no_event_between_kernels, REVERSE | LATE | TSAN, NULL),
    BUG(host_reads_device, EVERY, "Segmentation fault"),
    BUG(kernel_gets_host_pointer, EVERY, "pinned"),
    BUG(struct_holds_host_pointer, EVERY, "the host's memory"),
    BUG(use_after_free, EVERY, "use-after-poison"),
    BUG(free_before_use, REVERSE | LATE, "use-after-poison"),
    BUG(use_before_malloc, REVERSE | LATE, "use-after-poison"),
    BUG(unwritten_device_memory, EVERY, NULL),
    BUG(copy_of_wrong_kind, EVERY, "kind"),
    BUG(shared_without_attribute, EVERY, NULL),
    BUG(shared_together, EVERY, "it may have"),
    BUG(block_too_large, EVERY, NULL),
    BUG(wrong_leading_dimension, EVERY, "use-after-poison"),
    BUG(product_of_host_memory, EVERY, "pinned"),
    BUG(call_from_host_function, EVERY, "own work"),
};
const size_t n_host_bugs = sizeof host_bugs / sizeof host_bugs[0];
