// Products on the CUDA device: of few tokens by kernels that read the packed weights, of more by
// cuBLAS.
//
// For cuBLAS, tiles of rows are made bf16 in scratch, and so are the activations. Not f16, which
// ends at 65504: some models have activations beyond. Weights of F32 are for who wants exact
// products, and stay f32.

#include <string.h>

#include "gpu/gpu_private.h"
#include "gpu/product_cuda.h"
#include "gpu/vector_cuda.h"

enum { ALIGN_BYTES = 256 };

static size_t round_up(size_t bytes)
{
    return (bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
}

// Of the matrices, when cuBLAS multiplies.
static int32_t type_of(const struct weight *weight)
{
    return weight->desc.type == FATHOM_TYPE_F32 ? FATHOM_TYPE_F32 : FATHOM_TYPE_BF16;
}

static fathom_status no_room(const struct gpu_device *gpu, uint32_t n_cols)
{
    return status_set(FATHOM_ENOMEM, "products over %u columns exceed the scratch of %zu bytes",
                      n_cols, gpu->product_bytes);
}

// ---- Few tokens ---------------------------------------------------------------------------------

static fathom_status decode(const struct gpu_device *gpu, const struct matmul_many_args *args,
                            uint32_t first, uint32_t n_tokens)
{
    const uint32_t n_cols = args->products[0].weight->desc.n_cols;
    struct decode_args decode = {
        .x = args->dev_x + (size_t)first * n_cols,
        .scratch = gpu->dev_scratch,
        .n_tokens = n_tokens,
        .n_cols = n_cols,
        .n_products = args->n_products,
        .accumulate = args->accumulate,
    };
    if (product_scratch_bytes(n_tokens, n_cols) > gpu->scratch_bytes) return no_room(gpu, n_cols);
    for (uint32_t i = 0; i < args->n_products; i++) {
        const struct product *product = &args->products[i];
        const struct weight_desc *desc = &product->weight->desc;
        decode.products[i] = (struct decode_product){
            .weight = product->weight->dev,
            .bias = product->dev_bias,
            .out = product->dev_out + (size_t)first * desc->n_rows,
            .n_rows = desc->n_rows,
            .type = desc->type,
        };
    }
    GPU_TRY(product_decode_cuda, &decode, gpu->stream);
    return FATHOM_OK;
}

fathom_status gpu_matmul_decode(struct gpu_device *gpu, const struct matmul_many_args *args)
{
    return decode(gpu, args, 0, args->n_tokens);
}

// ---- Many tokens --------------------------------------------------------------------------------

// Tokens first .. first + n - 1 of a call.
struct batch {
    const struct gpu_device *gpu;
    const struct matmul_many_args *args;
    uint32_t first;
    uint32_t n_tokens;
    const uint8_t *dev_x; // their activations, as bf16
    uint8_t *dev_tile;    // for rows of weights
    size_t tile_bytes;
};

// out [n_tokens, n_rows] = x w^T, of all rows of the weight's `n` of them from `row` on. cuBLAS has
// its matrices column by column: it sees ours turned.
static fathom_status multiply(const struct batch *batch, const struct product *product,
                              const void *dev_rows, size_t row_values, uint32_t row, uint32_t n)
{
    const struct gpu_device *gpu = batch->gpu;
    const struct weight_desc *desc = &product->weight->desc;
    const bool is_f32 = type_of(product->weight) == FATHOM_TYPE_F32;
    const cudaDataType type = is_f32 ? CUDA_R_32F : CUDA_R_16BF;
    const float alpha = 1.0f, beta = batch->args->accumulate ? 1.0f : 0.0f;
    const float *x = batch->args->dev_x + (size_t)batch->first * desc->n_cols;
    float *out = product->dev_out + (size_t)batch->first * desc->n_rows + row;
    const cublasStatus_t error =
        gpu->blas.gemm(gpu->blas.handle, CUBLAS_OP_T, CUBLAS_OP_N, (int)n, (int)batch->n_tokens,
                       (int)desc->n_cols, &alpha, dev_rows, type, (int)row_values,
                       is_f32 ? (const void *)x : batch->dev_x, type, (int)desc->n_cols, &beta, out,
                       CUDA_R_32F, (int)desc->n_rows, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    return gpu_blas_status(error, "cublasGemmEx");
}

static fathom_status multiply_tiles(const struct batch *batch, const struct product *product)
{
    const struct gpu_device *gpu = batch->gpu;
    const struct weight *w = product->weight;
    const struct weight_desc *desc = &w->desc;
    const int32_t type = type_of(w);
    const size_t value_bytes = type == FATHOM_TYPE_F32 ? sizeof(float) : sizeof(uint16_t);
    const size_t n_fit = batch->tile_bytes / (desc->n_cols * value_bytes);
    // As cuBLAS reads them.
    if (desc->type == FATHOM_TYPE_BF16)
        return multiply(batch, product, w->dev, w->row_bytes / value_bytes, 0, desc->n_rows);
    if (n_fit == 0) return no_room(gpu, desc->n_cols);
    for (uint32_t row = 0, n; row < desc->n_rows; row += n) {
        n = desc->n_rows - row < n_fit ? desc->n_rows - row : (uint32_t)n_fit;
        const struct dequant_args tile = {
            .weight = w->dev + row * w->row_bytes,
            .out = batch->dev_tile,
            .n_rows = n,
            .n_cols = desc->n_cols,
            .type = desc->type,
            .out_type = type,
        };
        GPU_TRY(dequant_cuda, &tile, gpu->stream);
        FATHOM_TRY(multiply(batch, product, batch->dev_tile, desc->n_cols, row, n));
    }
    return FATHOM_OK;
}

static fathom_status multiply_batch(const struct batch *batch)
{
    const struct matmul_many_args *args = batch->args;
    for (uint32_t i = 0; i < args->n_products; i++) {
        const struct product *product = &args->products[i];
        const size_t n_rows = product->weight->desc.n_rows;
        FATHOM_TRY(multiply_tiles(batch, product));
        if (product->dev_bias != NULL)
            GPU_TRY(add_cuda, product->dev_out + batch->first * n_rows, product->dev_bias,
                    batch->n_tokens, n_rows, batch->gpu->stream);
    }
    return FATHOM_OK;
}

// As many tokens at a time as a quarter of scratch holds; the weights have the rest.
static fathom_status multiply_many(const struct gpu_device *gpu,
                                   const struct matmul_many_args *args)
{
    const uint32_t n_cols = args->products[0].weight->desc.n_cols;
    bool all_f32 = true;
    for (uint32_t i = 0; i < args->n_products; i++)
        all_f32 = all_f32 && type_of(args->products[i].weight) == FATHOM_TYPE_F32;
    const size_t n_fit =
        all_f32 ? args->n_tokens : gpu->product_bytes / 4 / (n_cols * sizeof(uint16_t));
    if (n_fit == 0) return no_room(gpu, n_cols);
    struct batch batch = {.gpu = gpu, .args = args};
    for (; batch.first < args->n_tokens; batch.first += batch.n_tokens) {
        const uint32_t left = args->n_tokens - batch.first;
        batch.n_tokens = left < n_fit ? left : (uint32_t)n_fit;
        const size_t n_values = (size_t)batch.n_tokens * n_cols;
        const size_t x_bytes = all_f32 ? 0 : round_up(n_values * sizeof(uint16_t));
        batch.dev_x = gpu->dev_scratch;
        batch.dev_tile = gpu->dev_scratch + x_bytes;
        batch.tile_bytes = gpu->product_bytes - x_bytes;
        if (!all_f32)
            GPU_TRY(convert_cuda, FATHOM_TYPE_BF16, args->dev_x + (size_t)batch.first * n_cols,
                    gpu->dev_scratch, n_values, gpu->stream);
        FATHOM_TRY(multiply_batch(&batch));
    }
    return FATHOM_OK;
}

static fathom_status multiply_here(const struct gpu_device *gpu,
                                   const struct matmul_many_args *args)
{
    if (args->n_tokens > PRODUCT_TOKENS_MAX && gpu->blas.module != NULL)
        return multiply_many(gpu, args);
    for (uint32_t first = 0, n; first < args->n_tokens; first += n) {
        const uint32_t left = args->n_tokens - first;
        n = left < PRODUCT_TOKENS_MAX ? left : PRODUCT_TOKENS_MAX;
        FATHOM_TRY(decode(gpu, args, first, n));
    }
    return FATHOM_OK;
}

fathom_status gpu_matmul(fathom_device *device, const struct matmul_many_args *args)
{
    struct gpu_device *gpu = (struct gpu_device *)device;
    bool in_ram = false;
    if (args->n_products == 0 || args->n_products > MATMUL_PRODUCTS_MAX)
        return status_set(FATHOM_EINVAL, "n_products=%u: must be 1 to %d", args->n_products,
                          MATMUL_PRODUCTS_MAX);
    for (uint32_t i = 0; i < args->n_products; i++)
        in_ram = in_ram || args->products[i].weight->ram != NULL;
    if (args->n_tokens == 0) return FATHOM_OK;
    if (!in_ram && args->n_tokens <= PRODUCT_TOKENS_MAX) {
        const struct gpu_op op = {.kind = GPU_MATMUL, .args.matmul = *args};
        return gpu_step_do(gpu, &op);
    }
    GPU_RANGE("matmul");
    FATHOM_TRY(gpu_enter(gpu));
    if (!in_ram) return multiply_here(gpu, args);
    // There is room for one guest: one after the other.
    for (uint32_t i = 0; i < args->n_products; i++) {
        struct matmul_many_args one = *args;
        struct weight guest = *args->products[i].weight;
        one.n_products = 1;
        one.products[0] = args->products[i];
        one.products[0].weight = &guest;
        if (guest.ram != NULL) {
            guest.dev = gpu->dev_guest;
            FATHOM_TRY(gpu_staging_upload(&gpu->staging, gpu->stream, guest.dev, guest.ram,
                                          weight_bytes(&guest)));
        }
        FATHOM_TRY(multiply_here(gpu, &one));
    }
    return FATHOM_OK;
}
