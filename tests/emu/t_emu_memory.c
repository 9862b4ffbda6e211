// The emulated memory: poisoned, bounded, counted; copies; and calls that fail when they are told
// to.

#include "tests/gpu/gpu_rig.h"

#include <math.h>

enum { N = 1000 };

// ---- Allocations --------------------------------------------------------------------------------

static void run_poison(void)
{
    float host[N];
    float *dev = gpu_new(sizeof host), *pinned = NULL;
    gpu_ok(cudaHostAlloc((void **)&pinned, sizeof host, cudaHostAllocDefault));
    gpu_take(host, dev, sizeof host);
    for (int i = 0; i < N; i++)
        assert_true(isnan(host[i]) && isnan(pinned[i]));
    gpu_ok(cudaFreeHost(pinned));
    void *none = &none;
    gpu_ok(cudaMalloc(&none, 0));
    assert_null(none);
    gpu_ok(cudaFree(NULL));
    gpu_ok(cudaFreeHost(NULL));
}

GPU_TEST(poison)

// What is freed must be what was allocated, and as what it was.
static void run_wrong_frees(void)
{
    char *dev = gpu_new(N), *pinned = NULL;
    gpu_ok(cudaMallocHost((void **)&pinned, N));
    assert_int_equal(cudaFree(dev + 1), cudaErrorInvalidValue);
    assert_int_equal(cudaFree(pinned), cudaErrorInvalidValue);
    assert_int_equal(cudaFreeHost(dev), cudaErrorInvalidValue);
    assert_int_equal(cudaHostUnregister(pinned), cudaErrorInvalidValue);
    assert_int_equal(cudaPeekAtLastError(), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    gpu_ok(cudaFree(dev));
    gpu_ok(cudaFreeHost(pinned));
    assert_int_equal(cudaFree(dev), cudaErrorInvalidValue);
}

GPU_TEST(wrong_frees)

static void test_small_device(void **state)
{
    (void)state;
    const struct emu_mode mode = {.name = "small", .device_bytes = 1000, .shared_bytes = 50000};
    size_t n_free = 0, n_total = 0;
    void *more = NULL;
    struct cudaDeviceProp properties;
    int shared = 0;
    emu_begin(&mode);
    gpu_ok(cudaGetDeviceProperties(&properties, 0));
    gpu_ok(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
    assert_int_equal(properties.totalGlobalMem, 1000);
    assert_int_equal(properties.sharedMemPerBlockOptin, 50000);
    assert_int_equal(shared, 50000);
    void *dev = gpu_new(600);
    assert_int_equal(cudaMalloc(&more, 401), cudaErrorMemoryAllocation);
    assert_null(more);
    assert_int_equal(cudaMallocAsync(&more, (size_t)-1, NULL), cudaErrorMemoryAllocation);
    gpu_ok(cudaMemGetInfo(&n_free, &n_total));
    assert_int_equal(n_free, 400);
    assert_int_equal(n_total, 1000);
    gpu_ok(cudaMalloc(&more, 400));
    gpu_ok(cudaFree(more));
    gpu_ok(cudaFree(dev));
    gpu_ok(cudaMallocHost(&more, 5000)); // of the host
    gpu_ok(cudaFreeHost(more));
    assert_int_equal(emu_end(), 0);
}

// In the order of a stream, with the pool that keeps what was freed.
static void run_pool(void)
{
    cudaMemPool_t pool = NULL;
    uint64_t keep = UINT64_MAX;
    cudaStream_t stream = NULL;
    char host[N], *dev = NULL;
    gpu_ok(cudaDeviceGetDefaultMemPool(&pool, 0));
    gpu_ok(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep));
    gpu_ok(cudaStreamCreate(&stream));
    for (int round = 0; round < 3; round++) {
        gpu_ok(cudaMallocAsync((void **)&dev, N, stream));
        gpu_ok(cudaMemsetAsync(dev, round, N, stream));
        gpu_ok(cudaMemcpyAsync(host, dev, N, cudaMemcpyDeviceToHost, stream));
        gpu_ok(cudaFreeAsync(dev, stream));
        gpu_ok(cudaStreamSynchronize(stream));
        for (int i = 0; i < N; i++)
            assert_int_equal(host[i], round);
    }
    gpu_ok(cudaStreamDestroy(stream));
}

GPU_TEST(pool)

static void test_left_over(void **state)
{
    (void)state;
    void *memory[3];
    cudaStream_t stream = NULL;
    cudaEvent_t event = NULL;
    char host[100];
    emu_begin(&emu_modes[0]);
    gpu_ok(cudaMalloc(&memory[0], 100));
    gpu_ok(cudaMallocHost(&memory[1], 100));
    gpu_ok(cudaHostRegister(host, sizeof host, cudaHostRegisterDefault));
    assert_int_equal(cudaHostRegister(host, sizeof host, 0), cudaErrorHostMemoryAlreadyRegistered);
    gpu_ok(cudaStreamCreate(&stream));
    gpu_ok(cudaEventCreate(&event));
    assert_int_equal(emu_end(), 5);
    free(event); // so that the leak is the device's only
}

// ---- Copies -------------------------------------------------------------------------------------

static void run_copies(void)
{
    unsigned char host[N], back[N];
    for (int i = 0; i < N; i++)
        host[i] = (unsigned char)i;
    unsigned char *a = gpu_put(host, N), *b = gpu_new(N);
    gpu_ok(cudaMemcpy(b, a, N, cudaMemcpyDeviceToDevice));
    gpu_ok(cudaMemset(b + 10, 0xaa, 20));
    gpu_get(back, b, N);
    for (int i = 0; i < N; i++)
        assert_int_equal(back[i], i >= 10 && i < 30 ? 0xaa : host[i]);
    // 10 rows of 20 from a pitch of 50 to one of 30.
    gpu_ok(cudaMemcpy2DAsync(b, 30, a + 100, 50, 20, 10, cudaMemcpyDefault, NULL));
    gpu_get(back, b, N);
    for (int i = 0; i < 200; i++)
        assert_int_equal(back[i / 20 * 30 + i % 20], host[100 + i / 20 * 50 + i % 20]);
    assert_int_equal(back[20], 0xaa);
    // Beyond the end.
    assert_int_equal(cudaMemcpy(b + 1, host, N, cudaMemcpyDefault), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpy2DAsync(b, 200, a, 10, 10, 6, cudaMemcpyDefault, NULL),
                     cudaErrorInvalidValue);
    assert_int_equal(cudaMemset(b, 0, N + 1), cudaErrorInvalidValue);
    assert_int_equal(cudaMemset(host, 0, N), cudaErrorInvalidValue);
    gpu_ok(cudaFree(a));
    gpu_ok(cudaFree(b));
}

GPU_TEST(copies)

// Pageable memory may be changed as soon as the call returns; what is pinned may not.
static void test_staging(void **state)
{
    (void)state;
    const struct emu_mode mode = {.name = "late", .defer = 1};
    char pageable[4] = "old", got[4];
    char *pinned = NULL;
    emu_begin(&mode);
    char *dev = gpu_new(4);
    gpu_ok(cudaMallocHost((void **)&pinned, 4));
    memcpy(pinned, "old", 4);
    gpu_ok(cudaMemcpyAsync(dev, pageable, 4, cudaMemcpyHostToDevice, NULL));
    memcpy(pageable, "new", 4);
    gpu_get(got, dev, 4);
    assert_string_equal(got, "old");
    gpu_ok(cudaMemcpyAsync(dev, pinned, 4, cudaMemcpyHostToDevice, NULL));
    memcpy(pinned, "new", 4);
    gpu_get(got, dev, 4);
    assert_string_equal(got, "new");
    gpu_ok(cudaFree(dev));
    gpu_ok(cudaFreeHost(pinned));
    assert_int_equal(emu_end(), 0);
}

// ---- Calls that fail ----------------------------------------------------------------------------

// Opens and uses a device as the library will; gives everything back whatever fails.
static cudaError_t use_device(void)
{
    void *dev = NULL, *pinned = NULL;
    cudaStream_t stream = NULL;
    cudaEvent_t event = NULL;
    cudaError_t status = cudaSetDevice(0);
    if (status == cudaSuccess) status = cudaMalloc(&dev, N);
    if (status == cudaSuccess) status = cudaMallocHost(&pinned, N);
    if (status == cudaSuccess) status = cudaStreamCreate(&stream);
    if (status == cudaSuccess) status = cudaEventCreate(&event);
    if (status == cudaSuccess) status = cudaMemsetAsync(dev, 1, N, stream);
    if (status == cudaSuccess)
        status = cudaMemcpyAsync(pinned, dev, N, cudaMemcpyDeviceToHost, stream);
    if (status == cudaSuccess) status = cudaEventRecord(event, stream);
    if (status == cudaSuccess) status = cudaEventSynchronize(event);
    if (event != NULL) cudaEventDestroy(event);
    if (stream != NULL) cudaStreamDestroy(stream);
    cudaFreeHost(pinned);
    cudaFree(dev);
    return status;
}

static void test_failing_calls(void **state)
{
    (void)state;
    struct emu_mode mode = {.name = "failing"};
    cudaError_t status = cudaErrorUnknown;
    for (mode.fail_call = 1; status != cudaSuccess && mode.fail_call < 100; mode.fail_call++) {
        emu_begin(&mode);
        status = use_device();
        assert_int_equal(cudaGetLastError(), status);
        if (status != cudaSuccess) assert_int_equal(emu_calls(), mode.fail_call);
        assert_int_equal(emu_end(), 0);
    }
    assert_int_equal(status, cudaSuccess);
    assert_int_equal(mode.fail_call, 11); // nine calls that can fail, and one round without
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_poison),       cmocka_unit_test(test_wrong_frees),
        cmocka_unit_test(test_small_device), cmocka_unit_test(test_pool),
        cmocka_unit_test(test_left_over),    cmocka_unit_test(test_copies),
        cmocka_unit_test(test_staging),      cmocka_unit_test(test_failing_calls),
    };
    return check_run("t_emu_memory", tests, sizeof tests / sizeof tests[0]);
}
