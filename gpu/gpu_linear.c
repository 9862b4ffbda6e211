// The CUDA device's linear algebra, but for products (gpu_matmul.c): weights, embedding, norms and
// activations.

#include "src/iface/linear.h"

#include "gpu/gpu_private.h"
#include "gpu/logits_cuda.h"
#include "gpu/product_rows.h"
#include "src/base/dtype.h"
#include "src/base/mem.h"
#include "src/base/pool.h"
#include "src/iface/kernels.h"

// ---- Opening ------------------------------------------------------------------------------------

static fathom_status new_weight(const struct weight_desc *desc, struct weight **weight)
{
    const struct dtype *dtype = dtype_find(desc->type);
    if (dtype == NULL)
        return status_set(FATHOM_EUNSUPPORTED, "%s: weight type %d is not supported", desc->name,
                          (int)desc->type);
    if (desc->n_rows == 0 || desc->n_cols == 0 || desc->n_cols % dtype->block_values != 0)
        return status_set(FATHOM_EINVAL, "%s: %u x %u is no shape for type %s", desc->name,
                          desc->n_rows, desc->n_cols, dtype->name);
    FATHOM_TRY(mem_new(1, sizeof **weight, desc->name, weight));
    (*weight)->desc = *desc;
    (*weight)->desc.name = NULL;
    return FATHOM_OK;
}

static void weight_close(fathom_device *device, struct weight **weight)
{
    if (weight == NULL || *weight == NULL) return;
    struct gpu_device *gpu = (struct gpu_device *)device;
    gpu->host->linear->weight_close(gpu->host, &(*weight)->table);
    device->ops->release(device, (*weight)->dev, weight_bytes(*weight));
    if ((*weight)->ram != NULL) mem_unreserve((*weight)->ram, weight_bytes(*weight));
    mem_free(*weight);
    *weight = NULL;
}

struct pack_share {
    const struct weight_desc *desc;
    const uint8_t *rows; // the first to be packed
    uint8_t *packed;
    size_t row_bytes, packed_row_bytes;
};

static void pack_range(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct pack_share *s = arg;
    (void)thread;
    product_pack_rows(s->desc->type, s->desc->n_cols, s->rows + begin * s->row_bytes, end - begin,
                      s->packed + begin * s->packed_row_bytes);
}

enum { GRAIN_BYTES = 64 << 10 };

// The threads pack one stage while the device takes the ones before.
static fathom_status send_rows(struct gpu_device *gpu, const struct weight_desc *desc,
                               const struct weight *weight)
{
    const size_t n_fit = gpu->staging.stage_bytes / weight->row_bytes;
    const size_t row_bytes = dtype_row_bytes(desc->type, desc->n_cols);
    if (n_fit == 0)
        return status_set(FATHOM_ENOMEM,
                          "%s: a row of %zu bytes, and only %zu could be pinned at a time for "
                          "copies to the GPU: raise the limit of locked memory (ulimit -l)",
                          desc->name, weight->row_bytes, gpu->staging.stage_bytes);
    for (size_t row = 0, n; row < desc->n_rows; row += n) {
        void *stage;
        n = desc->n_rows - row < n_fit ? desc->n_rows - row : n_fit;
        FATHOM_TRY(gpu_staging_begin(&gpu->staging, &stage));
        struct pack_share share = {desc, (const uint8_t *)desc->rows + row * row_bytes, stage,
                                   row_bytes, weight->row_bytes};
        pool_for(gpu->base.pool, n, GRAIN_BYTES / row_bytes + 1, pack_range, &share);
        FATHOM_TRY(gpu_staging_send(&gpu->staging, gpu->stream,
                                    weight->dev + row * weight->row_bytes, n * weight->row_bytes));
    }
    return FATHOM_OK;
}

// Room for the largest weight in RAM. It stays until the device is closed.
static fathom_status reserve_guest(struct gpu_device *gpu, size_t bytes)
{
    void *dev;
    if (bytes <= gpu->guest_bytes) return FATHOM_OK;
    FATHOM_TRY(gpu_take(bytes, "weights that come from RAM", &dev));
    (void)cudaFree(gpu->dev_guest); // waits for products that read it
    gpu->dev_guest = dev;
    gpu->guest_bytes = bytes;
    return FATHOM_OK;
}

static fathom_status keep_in_ram(struct gpu_device *gpu, const struct weight_desc *desc,
                                 struct weight *weight)
{
    const size_t row_bytes = dtype_row_bytes(desc->type, desc->n_cols);
    void *ram;
    FATHOM_TRY(reserve_guest(gpu, weight_bytes(weight)));
    FATHOM_TRY(mem_reserve(weight_bytes(weight), MEM_PAGES_HUGE, desc->name, &ram));
    weight->ram = ram;
    struct pack_share share = {desc, desc->rows, ram, row_bytes, weight->row_bytes};
    pool_for(gpu->base.pool, desc->n_rows, GRAIN_BYTES / row_bytes + 1, pack_range, &share);
    return FATHOM_OK;
}

static fathom_status weight_open(fathom_device *device, const struct weight_desc *desc,
                                 struct weight **weight)
{
    struct gpu_device *gpu = (struct gpu_device *)device;
    struct weight *w = NULL;
    void *dev;
    fathom_status status;
    GPU_RANGE("weight");
    FATHOM_TRY(gpu_enter(gpu));
    FATHOM_TRY(new_weight(desc, &w));
    w->desc.rows = NULL;
    w->row_bytes = product_layout_of(desc->type, desc->n_cols).row_bytes;
    if (desc->in_ram) {
        FATHOM_CHECK(keep_in_ram(gpu, desc, w), out);
    } else {
        FATHOM_CHECK(gpu_take(weight_bytes(w), desc->name, &dev), out);
        w->dev = dev;
        FATHOM_CHECK(send_rows(gpu, desc, w), out);
    }
    *weight = w;
    return FATHOM_OK;
out:
    weight_close(device, &w);
    return status;
}

static fathom_status table_open(fathom_device *device, const struct weight_desc *desc,
                                struct weight **table)
{
    fathom_device *host = ((struct gpu_device *)device)->host;
    struct weight *w = NULL;
    fathom_status status;
    FATHOM_TRY(new_weight(desc, &w));
    w->desc.rows = NULL;
    FATHOM_CHECK(host->linear->table_open(host, desc, &w->table), out);
    *table = w;
    return FATHOM_OK;
out:
    weight_close(device, &w);
    return status;
}

// ---- Embedding ----------------------------------------------------------------------------------
//
// A step takes a few rows of a table that is among the largest tensors: it stays in the host's
// memory, and the rows go to the device as floats.

static fathom_status embed(fathom_device *device, const struct weight *table, const int32_t *ids,
                           uint32_t n_ids, float *dev_out)
{
    struct gpu_device *gpu = (struct gpu_device *)device;
    const size_t row_bytes = table->desc.n_cols * sizeof(float);
    const size_t n_fit = gpu->staging.stage_bytes / row_bytes;
    GPU_RANGE("embed");
    FATHOM_TRY(gpu_enter(gpu));
    if (n_fit == 0)
        return status_set(FATHOM_ENOMEM,
                          "a row of the embedding has %zu bytes, and only %zu could be pinned at a "
                          "time for copies to the GPU: raise the limit of locked memory "
                          "(ulimit -l)",
                          row_bytes, gpu->staging.stage_bytes);
    for (size_t i = 0, n; i < n_ids; i += n) {
        void *stage;
        n = n_ids - i < n_fit ? n_ids - i : n_fit;
        FATHOM_TRY(gpu_staging_begin(&gpu->staging, &stage));
        FATHOM_TRY(gpu->host->linear->embed(gpu->host, table->table, ids + i, (uint32_t)n, stage));
        FATHOM_TRY(gpu_staging_send(&gpu->staging, gpu->stream, dev_out + i * table->desc.n_cols,
                                    n * row_bytes));
    }
    return FATHOM_OK;
}

// ---- The rest -----------------------------------------------------------------------------------

static fathom_status rmsnorm(fathom_device *device, const float *dev_x, const float *dev_weight,
                             float *dev_out, size_t n_rows, size_t n_cols, float eps)
{
    const struct gpu_op op = {
        .kind = GPU_RMSNORM,
        .args.rmsnorm = {dev_x, dev_weight, dev_out, n_rows, n_cols, eps},
    };
    return gpu_step_do((struct gpu_device *)device, &op);
}

static fathom_status swiglu(fathom_device *device, const float *dev_gate, const float *dev_up,
                            float *dev_out, size_t n)
{
    const struct gpu_op op = {.kind = GPU_SWIGLU, .args.swiglu = {dev_gate, dev_up, dev_out, n}};
    return gpu_step_do((struct gpu_device *)device, &op);
}

static fathom_status best_logits(fathom_device *device, const float *dev_logits, uint32_t n_logits,
                                 struct logit *best, uint32_t n_best)
{
    struct gpu_device *gpu = (struct gpu_device *)device;
    struct logit *dev_best = (struct logit *)gpu->dev_scratch;
    const size_t bytes = logits_scratch_bytes(n_logits, n_best) + n_best * sizeof *best;
    GPU_RANGE("best logits");
    FATHOM_TRY(gpu_enter(gpu));
    if (bytes > gpu->scratch_bytes)
        return status_set(FATHOM_ENOMEM, "%u logits exceed the scratch of %zu bytes", n_logits,
                          gpu->scratch_bytes);
    GPU_TRY(logits_best_cuda, dev_logits, n_logits, dev_best, n_best, dev_best + n_best,
            gpu->stream);
    return gpu_staging_download(&gpu->staging, gpu->stream, best, dev_best, n_best * sizeof *best);
}

const struct linear_ops gpu_linear_ops = {
    .weight_open = weight_open,
    .weight_close = weight_close,
    .table_open = table_open,
    .embed = embed,
    .matmul = gpu_matmul,
    .rmsnorm = rmsnorm,
    .swiglu = swiglu,
    .best_logits = best_logits,
};
