// Speed of the products of one token and of a few, on a device: bytes of weights read a second, and
// what share that is of a copy from device to device in the same run (which moves each byte twice).
//
// A step is a graph of as many products of 14336 x 4096 weights, each from memory of its own, as
// are larger together than any second-level cache, so that all of them come from memory, as in a
// model.

#include "tests/gpu/gpu_rig.h"

#include "gpu/product_cuda.h"
#include "gpu/product_rows.h"
#include "src/base/dtype.h"
#include "src/base/mem.h"
#include "tests/gpu/gpu_bench.h"
#include "tests/kernels/k_matmul.h"

enum { ROWS = 14336, COLS = 4096, RUNS = 9, WARM_UPS = 2, PACKED_ROWS = 64 };
static const size_t least_bytes = 256u << 20;

struct bench {
    cudaStream_t stream;
    cudaEvent_t begin, end;
    float *dev_x, *dev_out;
    void *dev_scratch;
};

static void open_bench(struct bench *bench)
{
    float *x;
    struct rng rng;
    rng_init(&rng, SEED);
    check_ok(mem_new(PRODUCT_TOKENS_MAX * COLS, sizeof *x, "x", &x));
    for (size_t i = 0; i < PRODUCT_TOKENS_MAX * COLS; i++)
        x[i] = rng_normal(&rng);
    bench->stream = gpu_new_stream();
    gpu_ok(cudaEventCreate(&bench->begin));
    gpu_ok(cudaEventCreate(&bench->end));
    bench->dev_x = gpu_put(x, PRODUCT_TOKENS_MAX * COLS * sizeof *x);
    bench->dev_out = gpu_new((size_t)PRODUCT_TOKENS_MAX * ROWS * sizeof(float));
    bench->dev_scratch = gpu_new(product_scratch_bytes(PRODUCT_TOKENS_MAX, COLS));
    mem_free(x);
}

static void close_bench(struct bench *bench)
{
    gpu_ok(cudaFree(bench->dev_x));
    gpu_ok(cudaFree(bench->dev_out));
    gpu_ok(cudaFree(bench->dev_scratch));
    gpu_ok(cudaEventDestroy(bench->begin));
    gpu_ok(cudaEventDestroy(bench->end));
    gpu_ok(cudaStreamDestroy(bench->stream));
}

static int by_value(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

// Median seconds of a launch of the graph, which is destroyed.
static double seconds_of(const struct bench *bench, cudaGraph_t graph)
{
    cudaGraphExec_t exec;
    float ms[WARM_UPS + RUNS];
    gpu_ok(cudaGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < WARM_UPS + RUNS; i++) {
        gpu_ok(cudaEventRecord(bench->begin, bench->stream));
        gpu_ok(cudaGraphLaunch(exec, bench->stream));
        gpu_ok(cudaEventRecord(bench->end, bench->stream));
        gpu_ok(cudaEventSynchronize(bench->end));
        gpu_ok(cudaEventElapsedTime(&ms[i], bench->begin, bench->end));
    }
    gpu_ok(cudaGraphExecDestroy(exec));
    gpu_ok(cudaGraphDestroy(graph));
    qsort(ms + WARM_UPS, RUNS, sizeof ms[0], by_value);
    return 1e-3 * (double)ms[WARM_UPS + RUNS / 2];
}

// Bytes read and written a second by a copy of half of the memory onto the other half.
static double copy_speed(const struct bench *bench, char *dev_weights, size_t bytes)
{
    cudaGraph_t graph;
    gpu_ok(cudaStreamBeginCapture(bench->stream, cudaStreamCaptureModeGlobal));
    gpu_ok(cudaMemcpyAsync(dev_weights, dev_weights + bytes / 2, bytes / 2,
                           cudaMemcpyDeviceToDevice, bench->stream));
    gpu_ok(cudaStreamEndCapture(bench->stream, &graph));
    return (double)(bytes / 2 * 2) / seconds_of(bench, graph);
}

static double product_seconds(const struct bench *bench, int32_t type, const char *dev_weights,
                              size_t n_weights, uint32_t n_tokens)
{
    const size_t weight_bytes = ROWS * product_layout_of(type, COLS).row_bytes;
    cudaGraph_t graph;
    gpu_ok(cudaStreamBeginCapture(bench->stream, cudaStreamCaptureModeGlobal));
    for (size_t i = 0; i < n_weights; i++) {
        const struct decode_args args = {
            .x = bench->dev_x,
            .scratch = bench->dev_scratch,
            .n_tokens = n_tokens,
            .n_cols = COLS,
            .n_products = 1,
            .products = {{.weight = dev_weights + i * weight_bytes,
                          .out = bench->dev_out,
                          .n_rows = ROWS,
                          .type = type}},
        };
        gpu_ok(product_decode_cuda(&args, bench->stream));
    }
    gpu_ok(cudaStreamEndCapture(bench->stream, &graph));
    return seconds_of(bench, graph);
}

// The device's weights: a few rows over and over.
static void fill_weights(int32_t type, char *dev_weights, size_t bytes)
{
    const size_t row_bytes = product_layout_of(type, COLS).row_bytes;
    uint8_t *rows, *packed;
    struct rng rng;
    rng_init(&rng, SEED);
    check_ok(mem_new(PACKED_ROWS, dtype_row_bytes(type, COLS), "rows", &rows));
    check_ok(mem_new(PACKED_ROWS, row_bytes, "packed rows", &packed));
    problem_random_rows(type, rows, PACKED_ROWS, COLS, &rng);
    product_pack_rows(type, COLS, rows, PACKED_ROWS, packed);
    for (size_t at = 0; at < bytes; at += PACKED_ROWS * row_bytes)
        gpu_ok(
            cudaMemcpy(dev_weights + at, packed, PACKED_ROWS * row_bytes, cudaMemcpyHostToDevice));
    mem_free(rows);
    mem_free(packed);
}

static void bench_type(const struct bench *bench, const struct dtype *dtype)
{
    static const uint32_t token_counts[] = {1, 2, 4, 8};
    const size_t weight_bytes = ROWS * product_layout_of(dtype->type, COLS).row_bytes;
    const size_t n_weights = (least_bytes + weight_bytes - 1) / weight_bytes;
    const size_t bytes = n_weights * weight_bytes;
    char *dev_weights = gpu_new(bytes);
    const double copy = copy_speed(bench, dev_weights, bytes); // of whatever lies there
    fill_weights(dtype->type, dev_weights, bytes);
    for (size_t i = 0; i < COUNT(token_counts); i++) {
        const double seconds =
            product_seconds(bench, dtype->type, dev_weights, n_weights, token_counts[i]);
        const double speed = (double)bytes / seconds;
        printf("%-5s %6u %10.1f %8.1f %8.1f %5.0f %%\n", dtype->name, token_counts[i],
               1e6 * seconds / (double)n_weights, 1e-9 * speed, 1e-9 * copy, 100 * speed / copy);
    }
    gpu_ok(cudaFree(dev_weights));
}

int gpu_bench_run(const char *which, uint32_t n_sms)
{
    size_t n_types;
    const struct dtype *dtypes = dtype_all(&n_types);
    struct bench bench;
    (void)n_sms;
    if (which != NULL && dtype_find_name(which) == NULL) {
        fprintf(stderr, "no type of that name: %s\n", which);
        return 2;
    }
    open_bench(&bench);
    printf("%d x %d weights, more than %zu MB by turns, medians of %d\n", ROWS, COLS,
           least_bytes >> 20, RUNS);
    printf("type  tokens us/product     GB/s     copy  share\n");
    for (size_t i = 0; i < n_types; i++)
        if (which == NULL || dtype_find_name(which) == &dtypes[i]) bench_type(&bench, &dtypes[i]);
    close_bench(&bench);
    return 0;
}
