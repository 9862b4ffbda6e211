// Speed of the device's products of many tokens, through cuBLAS with weights made bf16 on the way,
// beside one bare call of cuBLAS on matrices that are bf16 already: on a device.

#include "tests/gpu/gpu_bench.h"

#include "gpu/gpu_blas.h"
#include "gpu/product_cuda.h"
#include "src/base/dtype.h"
#include "src/base/mem.h"
#include "src/iface/linear.h"
#include "tests/gpu/device_rig.h"
#include "tests/kernels/k_matmul.h"

enum { ROWS = 14336, COLS = 4096, TOKENS_MAX = 4096, RANDOM_ROWS = 64, CALLS = 8 };

struct bench {
    fathom_device *device;
    struct gpu_blas blas;
    cudaStream_t stream;
    struct weight *weight;
    uint32_t n_tokens;
    float *dev_x;      // [TOKENS_MAX, COLS]
    float *dev_out;    // [TOKENS_MAX, ROWS]
    void *dev_x_bf16;  // as dev_x
    void *dev_weights; // bf16 [ROWS, COLS]
    void *dev_workspace;
};

// A few random rows, over and over.
static uint8_t *new_rows(int32_t type)
{
    const size_t bytes = RANDOM_ROWS * dtype_row_bytes(type, COLS);
    uint8_t *rows;
    struct rng rng;
    rng_init(&rng, SEED);
    check_ok(mem_new(ROWS / RANDOM_ROWS, bytes, "rows", &rows));
    problem_random_rows(type, rows, RANDOM_ROWS, COLS, &rng);
    for (size_t i = 1; i < ROWS / RANDOM_ROWS; i++)
        memcpy(rows + i * bytes, rows, bytes);
    return rows;
}

static void open_bench(struct bench *bench)
{
    const size_t n = (size_t)TOKENS_MAX * COLS;
    struct gpu_device_params params = gpu_rig_params(gpu_rig_host(NULL, NULL));
    uint8_t *rows = new_rows(FATHOM_TYPE_BF16);
    float *x;
    struct rng rng;
    rng_init(&rng, SEED);
    params.staging_bytes = GPU_STAGING_BYTES;
    params.product_bytes = GPU_PRODUCT_BYTES;
    params.blas_bytes = GPU_BLAS_BYTES;
    check_ok(gpu_device_open(&params, &bench->device));
    check_ok(mem_new(n, sizeof *x, "x", &x));
    for (size_t i = 0; i < n; i++)
        x[i] = rng_normal(&rng);
    bench->stream = gpu_new_stream();
    bench->dev_x = gpu_put(x, n * sizeof *x);
    bench->dev_out = gpu_new((size_t)TOKENS_MAX * ROWS * sizeof(float));
    bench->dev_x_bf16 = gpu_new(n * sizeof(uint16_t));
    bench->dev_weights = gpu_put(rows, ROWS * dtype_row_bytes(FATHOM_TYPE_BF16, COLS));
    bench->dev_workspace = gpu_new(GPU_BLAS_BYTES);
    gpu_ok(convert_cuda(FATHOM_TYPE_BF16, bench->dev_x, bench->dev_x_bf16, n, bench->stream));
    check_ok(gpu_blas_find(GPU_BLAS_LIBRARY, &bench->blas));
    check_ok(gpu_blas_open(&bench->blas, bench->stream, bench->dev_workspace, GPU_BLAS_BYTES));
    mem_free(x);
    mem_free(rows);
}

static void close_bench(struct bench *bench)
{
    fathom_device_close(&bench->device);
    gpu_blas_close(&bench->blas);
    gpu_ok(cudaFree(bench->dev_x));
    gpu_ok(cudaFree(bench->dev_out));
    gpu_ok(cudaFree(bench->dev_x_bf16));
    gpu_ok(cudaFree(bench->dev_weights));
    gpu_ok(cudaFree(bench->dev_workspace));
    gpu_ok(cudaStreamDestroy(bench->stream));
}

static void multiply(void *arg)
{
    const struct bench *bench = arg;
    const struct matmul_many_args args = {
        .dev_x = bench->dev_x,
        .n_tokens = bench->n_tokens,
        .n_products = 1,
        .products = {{.weight = bench->weight, .dev_out = bench->dev_out}},
    };
    for (int i = 0; i < CALLS; i++)
        check_ok(bench->device->linear->matmul(bench->device, &args));
    check_ok(bench->device->ops->sync(bench->device));
}

static void multiply_bare(void *arg)
{
    const struct bench *bench = arg;
    const float alpha = 1, beta = 0;
    for (int i = 0; i < CALLS; i++)
        assert_int_equal(bench->blas.gemm(bench->blas.handle, CUBLAS_OP_T, CUBLAS_OP_N, ROWS,
                                          (int)bench->n_tokens, COLS, &alpha, bench->dev_weights,
                                          CUDA_R_16BF, COLS, bench->dev_x_bf16, CUDA_R_16BF, COLS,
                                          &beta, bench->dev_out, CUDA_R_32F, ROWS,
                                          CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                         CUBLAS_STATUS_SUCCESS);
    gpu_ok(cudaStreamSynchronize(bench->stream));
}

static void bench_type(struct bench *bench, const struct dtype *dtype)
{
    static const uint32_t token_counts[] = {512, 2048, TOKENS_MAX};
    uint8_t *rows = new_rows(dtype->type);
    const struct weight_desc desc = {
        .name = "weights", .type = dtype->type, .n_rows = ROWS, .n_cols = COLS, .rows = rows};
    check_ok(bench->device->linear->weight_open(bench->device, &desc, &bench->weight));
    for (size_t i = 0; i < sizeof token_counts / sizeof *token_counts; i++) {
        bench->n_tokens = token_counts[i];
        const double flops = 2.0 * ROWS * COLS * bench->n_tokens;
        const double ours = gpu_bench_seconds(multiply, bench, 1) / CALLS;
        const double bare = gpu_bench_seconds(multiply_bare, bench, 1) / CALLS;
        printf("%-5s %6u %10.3f %10.3f %10.1f %5.0f %%\n", dtype->name, bench->n_tokens, 1e3 * ours,
               1e3 * bare, 1e-12 * flops / ours, 100 * bare / ours);
    }
    bench->device->linear->weight_close(bench->device, &bench->weight);
    mem_free(rows);
}

int gpu_bench_run(const char *which, uint32_t n_sms)
{
    static const int32_t types[] = {FATHOM_TYPE_BF16, FATHOM_TYPE_F16, FATHOM_TYPE_Q8_0,
                                    FATHOM_TYPE_Q4_K};
    struct bench bench = {0};
    (void)n_sms;
    if (which != NULL) return gpu_bench_no_part(which);
    open_bench(&bench);
    printf("%d x %d weights, medians of %d calls\n", ROWS, COLS, CALLS);
    printf("type  tokens         ms    bare ms   TFLOP/s share\n");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        bench_type(&bench, dtype_find(types[i]));
    close_bench(&bench);
    return 0;
}
