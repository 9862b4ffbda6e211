// The CUDA device's linear algebra, but for products (gpu_matmul.c): weights, embedding, norms and
// activations.

#include "src/iface/linear.h"

#include <string.h>

#include "gpu/gpu_private.h"
#include "gpu/product_rows.h"
#include "gpu/vector_cuda.h"
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
    fathom_device *host = ((struct gpu_device *)device)->host;
    host->linear->weight_close(host, &(*weight)->table);
    device->ops->release(device, (*weight)->dev, (*weight)->desc.n_rows * (*weight)->row_bytes);
    mem_free((*weight)->ram);
    mem_free(*weight);
    *weight = NULL;
}

// Rows that become packed ones: of a file, or packed already.
struct row_source {
    const struct weight_desc *desc;
    const uint8_t *rows;
    bool packed;
    size_t row_bytes, packed_row_bytes;
};

struct pack_share {
    const struct row_source *source;
    size_t first; // row
    uint8_t *out; // for its packed bytes
};

static void pack_range(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct pack_share *share = arg;
    const struct row_source *s = share->source;
    const uint8_t *rows = s->rows + (share->first + begin) * s->row_bytes;
    uint8_t *out = share->out + begin * s->packed_row_bytes;
    (void)thread;
    if (s->packed)
        memcpy(out, rows, (end - begin) * s->row_bytes);
    else
        product_pack_rows(s->desc->type, s->desc->n_cols, rows, end - begin, out);
}

static void pack(struct gpu_device *gpu, const struct row_source *source, size_t first, size_t n,
                 uint8_t *out)
{
    enum { GRAIN_BYTES = 64 << 10 };
    struct pack_share share = {source, first, out};
    pool_for(gpu->base.pool, n, GRAIN_BYTES / source->row_bytes + 1, pack_range, &share);
}

// The threads fill one stage while the device takes the ones before.
static fathom_status send_rows(struct gpu_device *gpu, const struct row_source *source,
                               uint8_t *dev)
{
    const size_t row_bytes = source->packed_row_bytes, n_rows = source->desc->n_rows;
    const size_t n_fit = gpu->staging.stage_bytes / row_bytes;
    if (n_fit == 0)
        return status_set(FATHOM_ENOMEM,
                          "%s: a row of %zu bytes, and only %zu could be pinned at a time for "
                          "copies to the GPU: raise the limit of locked memory (ulimit -l)",
                          source->desc->name, row_bytes, gpu->staging.stage_bytes);
    for (size_t row = 0, n; row < n_rows; row += n) {
        void *stage;
        n = n_rows - row < n_fit ? n_rows - row : n_fit;
        FATHOM_TRY(gpu_staging_begin(&gpu->staging, &stage));
        pack(gpu, source, row, n, stage);
        FATHOM_TRY(
            gpu_staging_send(&gpu->staging, gpu->stream, dev + row * row_bytes, n * row_bytes));
    }
    return FATHOM_OK;
}

fathom_status gpu_linear_invite(struct gpu_device *gpu, const struct weight *weight)
{
    struct weight_desc desc = weight->desc;
    desc.name = "a weight in RAM";
    const struct row_source source = {&desc, weight->ram, true, weight->row_bytes,
                                      weight->row_bytes};
    return send_rows(gpu, &source, gpu->dev_guest);
}

// Room for the largest weight that stays in RAM. Nothing that uses it is under way while a model is
// opened but products of others: CUDA waits for them.
static fathom_status reserve_guest(struct gpu_device *gpu, size_t bytes)
{
    void *dev;
    if (bytes <= gpu->guest_bytes) return FATHOM_OK;
    (void)cudaFree(gpu->dev_guest);
    gpu->dev_guest = NULL;
    gpu->guest_bytes = 0;
    FATHOM_TRY(gpu_take(bytes, "weights that come from RAM", &dev));
    gpu->dev_guest = dev;
    gpu->guest_bytes = bytes;
    return FATHOM_OK;
}

static fathom_status weight_open(fathom_device *device, const struct weight_desc *desc,
                                 struct weight **weight)
{
    struct gpu_device *gpu = (struct gpu_device *)device;
    struct weight *w = NULL;
    void *dev;
    fathom_status status;
    FATHOM_TRY(gpu_enter(gpu));
    FATHOM_TRY(new_weight(desc, &w));
    w->desc.rows = NULL;
    w->row_bytes = product_layout_of(desc->type, desc->n_cols).row_bytes;
    const struct row_source source = {desc, desc->rows, false,
                                      dtype_row_bytes(desc->type, desc->n_cols), w->row_bytes};
    if (desc->in_ram) {
        FATHOM_CHECK(mem_new(desc->n_rows, w->row_bytes, desc->name, &w->ram), out);
        FATHOM_CHECK(reserve_guest(gpu, desc->n_rows * w->row_bytes), out);
        pack(gpu, &source, 0, desc->n_rows, w->ram);
    } else {
        FATHOM_CHECK(gpu_take(desc->n_rows * w->row_bytes, desc->name, &dev), out);
        w->dev = dev;
        FATHOM_CHECK(send_rows(gpu, &source, w->dev), out);
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
    const struct gpu_device *gpu = (const struct gpu_device *)device;
    const struct rmsnorm_args args = {dev_x, dev_weight, dev_out, n_rows, n_cols, eps};
    FATHOM_TRY(gpu_enter(gpu));
    GPU_TRY(rmsnorm_cuda, &args, gpu->stream);
    return FATHOM_OK;
}

static fathom_status swiglu(fathom_device *device, const float *dev_gate, const float *dev_up,
                            float *dev_out, size_t n)
{
    const struct gpu_device *gpu = (const struct gpu_device *)device;
    FATHOM_TRY(gpu_enter(gpu));
    GPU_TRY(swiglu_cuda, dev_gate, dev_up, dev_out, n, gpu->stream);
    return FATHOM_OK;
}

const struct linear_ops gpu_linear_ops = {
    .weight_open = weight_open,
    .weight_close = weight_close,
    .table_open = table_open,
    .embed = embed,
    .matmul = gpu_matmul,
    .rmsnorm = rmsnorm,
    .swiglu = swiglu,
};
