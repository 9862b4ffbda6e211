// The CPU device's linear algebra: shares products, norms and activations out over the threads.
//
// Weights are packed into the panels of the best kernel that the machine has when they are opened.
// The packed copy is what decode reads; the file's bytes are not touched again.

#include "src/iface/linear.h"

#include <string.h>

#include "cpu/cpu_private.h"
#include "src/base/dtype.h"
#include "src/base/mem.h"
#include "src/base/status.h"

struct weight {
    struct weight_desc desc; // name and rows are not kept, except rows of a table
    const struct matmul_kernel *kernel;
    uint32_t n_panels;
    size_t panel_bytes;
    size_t bytes;    // of panels
    uint8_t *panels; // NULL for a table
};

// ---- Opening ------------------------------------------------------------------------------------

static fathom_status check_desc(const struct weight_desc *desc)
{
    const struct dtype *dtype = dtype_find(desc->type);
    if (dtype == NULL)
        return status_set(FATHOM_EUNSUPPORTED, "%s: weight type %d is not supported", desc->name,
                          (int)desc->type);
    if (desc->n_rows == 0 || desc->n_cols == 0 || desc->n_cols % dtype->block_values != 0)
        return status_set(FATHOM_EINVAL, "%s: %u x %u is no shape for type %s", desc->name,
                          desc->n_rows, desc->n_cols, dtype->name);
    return FATHOM_OK;
}

struct pack_share {
    const struct weight *weight;
    const uint8_t *rows;
};

static void pack_range(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct pack_share *share = arg;
    const struct weight *w = share->weight;
    const size_t row_bytes = dtype_row_bytes(w->desc.type, w->desc.n_cols);
    (void)thread;
    for (size_t panel = begin; panel < end; panel++) {
        const size_t row = panel * w->kernel->panel_rows;
        const size_t left = w->desc.n_rows - row;
        const uint32_t n_rows =
            left < w->kernel->panel_rows ? (uint32_t)left : w->kernel->panel_rows;
        w->kernel->pack_panel(w->panels + panel * w->panel_bytes, share->rows + row * row_bytes,
                              n_rows, w->desc.n_cols);
    }
}

static void weight_close(fathom_device *device, struct weight **weight)
{
    (void)device;
    if (weight == NULL || *weight == NULL) return;
    if ((*weight)->panels != NULL) mem_unreserve((*weight)->panels, (*weight)->bytes);
    mem_free(*weight);
    *weight = NULL;
}

static fathom_status weight_open(fathom_device *device, const struct weight_desc *desc,
                                 struct weight **weight)
{
    const struct cpu_device *cpu = (const struct cpu_device *)device;
    struct weight *w = NULL;
    void *panels;
    fathom_status status;
    FATHOM_TRY(check_desc(desc));
    FATHOM_TRY(mem_new(1, sizeof *w, desc->name, &w));
    w->desc = *desc;
    w->desc.name = NULL;
    w->desc.rows = NULL;
    w->kernel = &cpu->kernels.matmul[desc->type];
    w->n_panels = (desc->n_rows + w->kernel->panel_rows - 1) / w->kernel->panel_rows;
    w->panel_bytes = w->kernel->panel_bytes(desc->n_cols);
    if (!size_mul(w->n_panels, w->panel_bytes, &w->bytes)) w->bytes = SIZE_MAX;
    FATHOM_CHECK(mem_reserve(w->bytes, MEM_PAGES_HUGE, desc->name, &panels), out);
    w->panels = panels;
    struct pack_share share = {.weight = w, .rows = desc->rows};
    pool_for(cpu->pool, w->n_panels, 16, pack_range, &share);
    *weight = w;
    return FATHOM_OK;
out:
    weight_close(device, &w);
    return status;
}

static fathom_status table_open(fathom_device *device, const struct weight_desc *desc,
                                struct weight **table)
{
    struct weight *w = NULL;
    (void)device;
    FATHOM_TRY(check_desc(desc));
    FATHOM_TRY(mem_new(1, sizeof *w, desc->name, &w));
    w->desc = *desc;
    w->desc.name = NULL;
    *table = w;
    return FATHOM_OK;
}

// ---- Products -----------------------------------------------------------------------------------

// One call of matmul over the tokens that fit the activation buffer.
struct product_share {
    const struct cpu_device *cpu;
    const struct matmul_many_args *args;
    uint32_t first_token;
    uint32_t n_tokens;
    uint32_t grain;                        // panels of one work item
    size_t item_ends[MATMUL_PRODUCTS_MAX]; // items of product i end here
    const uint8_t *x[MATMUL_PRODUCTS_MAX]; // packed activations of product i
    size_t x_row_bytes[MATMUL_PRODUCTS_MAX];
};

struct pack_x_share {
    const struct product_share *products;
    const struct weight *weight;
    uint8_t *packed;
    size_t row_bytes;
};

static void pack_x_range(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct pack_x_share *share = arg;
    const uint32_t n_cols = share->weight->desc.n_cols;
    (void)thread;
    for (size_t t = begin; t < end; t++) {
        const size_t token = share->products->first_token + t;
        share->weight->kernel->pack_x(share->packed + t * share->row_bytes,
                                      share->products->args->dev_x + token * n_cols, n_cols);
    }
}

// Packs the tokens' activations once for each form that the products' kernels ask for.
static void pack_activations(struct product_share *share)
{
    uint8_t *next = share->cpu->activations;
    for (uint32_t i = 0; i < share->args->n_products; i++) {
        const struct weight *w = share->args->products[i].weight;
        uint32_t same = 0;
        while (share->args->products[same].weight->kernel->pack_x != w->kernel->pack_x)
            same++;
        if (same < i) {
            share->x[i] = share->x[same];
            share->x_row_bytes[i] = share->x_row_bytes[same];
            continue;
        }
        share->x[i] = next;
        share->x_row_bytes[i] = w->kernel->x_row_bytes(w->desc.n_cols);
        struct pack_x_share pack = {share, w, next, share->x_row_bytes[i]};
        pool_for(share->cpu->pool, share->n_tokens, 8, pack_x_range, &pack);
        next += share->n_tokens * share->x_row_bytes[i];
    }
}

static void run_item(const struct product_share *share, size_t item)
{
    uint32_t i = 0;
    while (item >= share->item_ends[i])
        i++;
    const struct product *product = &share->args->products[i];
    const struct weight *w = product->weight;
    const size_t panel = (item - (i > 0 ? share->item_ends[i - 1] : 0)) * share->grain;
    const size_t row = panel * w->kernel->panel_rows;
    const size_t rows_left = w->desc.n_rows - row;
    const size_t item_rows = (size_t)share->grain * w->kernel->panel_rows;
    const struct matmul_args args = {
        .panels = w->panels + panel * w->panel_bytes,
        .n_rows = (uint32_t)(rows_left < item_rows ? rows_left : item_rows),
        .n_cols = w->desc.n_cols,
        .n_tokens = share->n_tokens,
        .x = share->x[i],
        .out = product->dev_out + (size_t)share->first_token * w->desc.n_rows + row,
        .out_stride = w->desc.n_rows,
        .bias = product->dev_bias != NULL ? product->dev_bias + row : NULL,
        .accumulate = share->args->accumulate,
    };
    w->kernel->run(&args);
}

static void run_range(void *arg, size_t begin, size_t end, uint32_t thread)
{
    (void)thread;
    for (size_t item = begin; item < end; item++)
        run_item(arg, item);
}

// Items small enough that threads end together, large enough to stream: with one token about 8 a
// thread, with many tokens a panel or two whose weights stay in the nearest cache.
static void cut_items(struct product_share *share)
{
    enum { ITEMS_PER_THREAD = 8, BATCH_PANELS = 2, ITEM_BYTES_MIN = 16 << 10 };
    size_t n_panels = 0;
    size_t n_items = 0;
    size_t grain = BATCH_PANELS;
    for (uint32_t i = 0; i < share->args->n_products; i++)
        n_panels += share->args->products[i].weight->n_panels;
    if (share->n_tokens == 1) {
        const size_t panel_bytes = share->args->products[0].weight->panel_bytes;
        const size_t least = (ITEM_BYTES_MIN + panel_bytes - 1) / panel_bytes;
        grain = n_panels / ((size_t)pool_count(share->cpu->pool) * ITEMS_PER_THREAD);
        if (grain < least) grain = least;
    }
    share->grain = (uint32_t)grain;
    for (uint32_t i = 0; i < share->args->n_products; i++) {
        n_items += (share->args->products[i].weight->n_panels + grain - 1) / grain;
        share->item_ends[i] = n_items;
    }
}

static fathom_status matmul(fathom_device *device, const struct matmul_many_args *args)
{
    const struct cpu_device *cpu = (const struct cpu_device *)device;
    struct product_share share = {.cpu = cpu, .args = args};
    size_t token_bytes = 0;
    if (args->n_products == 0 || args->n_products > MATMUL_PRODUCTS_MAX)
        return status_set(FATHOM_EINVAL, "n_products=%u: must be 1 to %d", args->n_products,
                          MATMUL_PRODUCTS_MAX);
    for (uint32_t i = 0; i < args->n_products; i++) {
        const struct weight *w = args->products[i].weight;
        token_bytes += w->kernel->x_row_bytes(w->desc.n_cols);
    }
    const size_t fit = CPU_ACTIVATION_BYTES / token_bytes;
    if (fit == 0)
        return status_set(FATHOM_ENOMEM, "a row of activations takes %zu bytes: at most %d",
                          token_bytes, CPU_ACTIVATION_BYTES);
    for (uint32_t first = 0; first < args->n_tokens; first += share.n_tokens) {
        const uint32_t left = args->n_tokens - first;
        share.first_token = first;
        share.n_tokens = left < fit ? left : (uint32_t)fit;
        pack_activations(&share);
        cut_items(&share);
        pool_for(cpu->pool, share.item_ends[args->n_products - 1], 1, run_range, &share);
    }
    return FATHOM_OK;
}

// ---- The rest -----------------------------------------------------------------------------------

struct embed_share {
    const struct cpu_device *cpu;
    const struct weight *table;
    const int32_t *ids;
    float *out;
};

static void embed_range(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct embed_share *share = arg;
    const struct weight_desc *desc = &share->table->desc;
    const size_t row_bytes = dtype_row_bytes(desc->type, desc->n_cols);
    (void)thread;
    for (size_t i = begin; i < end; i++)
        share->cpu->kernels.dequant_row(desc->type,
                                        (const uint8_t *)desc->rows + share->ids[i] * row_bytes,
                                        share->out + i * desc->n_cols, desc->n_cols);
}

static fathom_status embed(fathom_device *device, const struct weight *table, const int32_t *ids,
                           uint32_t n_ids, float *dev_out)
{
    const struct cpu_device *cpu = (const struct cpu_device *)device;
    struct embed_share share = {cpu, table, ids, dev_out};
    pool_for(cpu->pool, n_ids, 16, embed_range, &share);
    return FATHOM_OK;
}

struct norm_share {
    const struct cpu_device *cpu;
    const float *x;
    const float *weight;
    float *out;
    size_t n_cols;
    float eps;
};

static void norm_range(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct norm_share *s = arg;
    (void)thread;
    s->cpu->kernels.rmsnorm(s->x + begin * s->n_cols, s->weight, s->out + begin * s->n_cols,
                            end - begin, s->n_cols, s->eps);
}

// Values of one work item of an elementwise operation: about as long as a crossing of the pool.
enum { GRAIN_VALUES = 1 << 15 };

static fathom_status rmsnorm(fathom_device *device, const float *dev_x, const float *dev_weight,
                             float *dev_out, size_t n_rows, size_t n_cols, float eps)
{
    const struct cpu_device *cpu = (const struct cpu_device *)device;
    struct norm_share share = {cpu, dev_x, dev_weight, dev_out, n_cols, eps};
    pool_for(cpu->pool, n_rows, (GRAIN_VALUES + n_cols - 1) / n_cols, norm_range, &share);
    return FATHOM_OK;
}

struct swiglu_share {
    const struct cpu_device *cpu;
    const float *gate;
    const float *up;
    float *out;
};

static void swiglu_range(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct swiglu_share *s = arg;
    (void)thread;
    s->cpu->kernels.swiglu(s->gate + begin, s->up + begin, s->out + begin, end - begin);
}

static fathom_status swiglu(fathom_device *device, const float *dev_gate, const float *dev_up,
                            float *dev_out, size_t n)
{
    const struct cpu_device *cpu = (const struct cpu_device *)device;
    struct swiglu_share share = {cpu, dev_gate, dev_up, dev_out};
    pool_for(cpu->pool, n, GRAIN_VALUES, swiglu_range, &share);
    return FATHOM_OK;
}

const struct linear_ops cpu_linear_ops = {
    .weight_open = weight_open,
    .weight_close = weight_close,
    .table_open = table_open,
    .embed = embed,
    .matmul = matmul,
    .rmsnorm = rmsnorm,
    .swiglu = swiglu,
};
