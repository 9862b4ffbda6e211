// Opens a model's tensors on its device, by the names of GGUF files.

#include "src/model/model.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "src/base/dtype.h"
#include "src/base/log.h"
#include "src/base/status.h"
#include "src/model/gguf_file.h"

struct loader {
    struct fathom_model *model;
    fathom_progress_fn progress;
    void *progress_user;
    uint64_t done_bytes;
    size_t n_used; // tensors
    bool in_ram;   // weights that are opened now
};

static fathom_status count(struct loader *loader, const struct fathom_gguf_tensor *tensor)
{
    loader->n_used++;
    loader->done_bytes += tensor->bytes;
    if (loader->progress == NULL ||
        loader->progress(loader->done_bytes, loader->model->info.weight_bytes,
                         loader->progress_user))
        return FATHOM_OK;
    return status_set(FATHOM_ECANCELLED, "loading was cancelled");
}

// The tensor of that name, with exactly these dimensions (n_cols runs fastest); NULL if there is
// none.
static fathom_status find_tensor(const struct loader *loader, const char *name, uint32_t n_cols,
                                 uint32_t n_rows, const struct fathom_gguf_tensor **tensor)
{
    const struct fathom_gguf_tensor *t = fathom_gguf_tensor_find(loader->model->gguf, name);
    *tensor = t;
    if (t == NULL) return FATHOM_OK;
    if (t->dims[0] != n_cols || t->dims[1] != n_rows || t->dims[2] != 1 || t->dims[3] != 1)
        return status_set(FATHOM_ECORRUPT,
                          "tensor %s is %" PRIu64 " x %" PRIu64
                          ", not %u x %u as the metadata says",
                          name, t->dims[0], t->dims[1], n_cols, n_rows);
    if (t->data == NULL || dtype_find(t->type) == NULL)
        return status_set(FATHOM_EUNSUPPORTED,
                          "tensor %s has weight type %d, which is not supported (F32, F16, BF16, "
                          "Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K are)",
                          name, (int)t->type);
    return FATHOM_OK;
}

static fathom_status missing(const char *name)
{
    return status_set(FATHOM_ECORRUPT, "tensor %s is missing", name);
}

// The vector of that name; NULL if there is none.
static fathom_status find_vector(struct loader *loader, const char *name, uint32_t n,
                                 const struct fathom_gguf_tensor **tensor)
{
    FATHOM_TRY(find_tensor(loader, name, n, 1, tensor));
    if (*tensor == NULL) return FATHOM_OK;
    if ((*tensor)->type != FATHOM_TYPE_F32)
        return status_set(FATHOM_EUNSUPPORTED, "tensor %s has type %s: F32 is supported", name,
                          dtype_find((*tensor)->type)->name);
    return count(loader, *tensor);
}

// Divisors for the engine, in the arena; *values NULL if there is no such tensor.
static fathom_status read_vector(struct loader *loader, const char *name, uint32_t n,
                                 float **values)
{
    const struct fathom_gguf_tensor *t;
    *values = NULL;
    FATHOM_TRY(find_vector(loader, name, n, &t));
    if (t == NULL) return FATHOM_OK;
    FATHOM_TRY(arena_new(&loader->model->arena, n, sizeof **values, name, values));
    memcpy(*values, t->data, n * sizeof **values);
    return FATHOM_OK;
}

static fathom_status open_vector(struct loader *loader, const char *name, uint32_t n,
                                 struct vector *vector)
{
    fathom_device *device = loader->model->device;
    const struct fathom_gguf_tensor *t;
    void *dev;
    FATHOM_TRY(find_vector(loader, name, n, &t));
    if (t == NULL) return FATHOM_OK;
    FATHOM_TRY(device->ops->alloc(device, t->bytes, name, &dev));
    vector->dev = dev;
    vector->n = n;
    return device->ops->upload(device, dev, t->data, t->bytes);
}

static fathom_status open_needed_vector(struct loader *loader, const char *name, uint32_t n,
                                        struct vector *vector)
{
    FATHOM_TRY(open_vector(loader, name, n, vector));
    return vector->dev != NULL ? FATHOM_OK : missing(name);
}

static struct weight_desc describe(const char *name, const struct fathom_gguf_tensor *tensor)
{
    return (struct weight_desc){
        .name = name,
        .type = tensor->type,
        .n_rows = (uint32_t)tensor->dims[1],
        .n_cols = (uint32_t)tensor->dims[0],
        .rows = tensor->data,
    };
}

// NAME.weight, which must be there, and NAME.bias, which may be.
static fathom_status open_affine(struct loader *loader, const char *name, uint32_t n_cols,
                                 uint32_t n_rows, struct affine *affine)
{
    struct fathom_model *model = loader->model;
    const struct fathom_gguf_tensor *t;
    struct vector bias = {0};
    char full[96];
    snprintf(full, sizeof full, "%s.weight", name);
    FATHOM_TRY(find_tensor(loader, full, n_cols, n_rows, &t));
    if (t == NULL) return missing(full);
    struct weight_desc desc = describe(full, t);
    desc.in_ram = loader->in_ram;
    if (desc.in_ram) model->info.streamed_bytes += t->bytes;
    FATHOM_TRY(model->linear->weight_open(model->device, &desc, &affine->weight));
    affine->n_rows = n_rows;
    FATHOM_TRY(count(loader, t));
    snprintf(full, sizeof full, "%s.bias", name);
    const fathom_status status = open_vector(loader, full, n_rows, &bias);
    affine->dev_bias = bias.dev;
    return status;
}

static fathom_status open_layer(struct loader *loader, uint32_t i)
{
    const struct fathom_model_info *info = &loader->model->info;
    struct layer *layer = &loader->model->layers[i];
    const uint32_t n_q = info->n_heads * info->d_k;
    const uint32_t n_k = info->n_kv_heads * info->d_k;
    const uint32_t n_v = info->n_kv_heads * info->d_v;
    const uint32_t n_o = info->n_heads * info->d_v;
    const uint32_t d = info->d_model;
    const struct {
        const char *name;
        uint32_t n_cols, n_rows;
        struct affine *affine;
    } products[] = {
        {"attn_q", d, n_q, &layer->q},
        {"attn_k", d, n_k, &layer->k},
        {"attn_v", d, n_v, &layer->v},
        {"attn_output", n_o, d, &layer->o},
        {"ffn_gate", d, info->d_ff, &layer->gate},
        {"ffn_up", d, info->d_ff, &layer->up},
        {"ffn_down", info->d_ff, d, &layer->down},
    };
    char name[64];
    for (size_t p = 0; p < sizeof products / sizeof *products; p++) {
        snprintf(name, sizeof name, "blk.%u.%s", i, products[p].name);
        FATHOM_TRY(
            open_affine(loader, name, products[p].n_cols, products[p].n_rows, products[p].affine));
    }
    snprintf(name, sizeof name, "blk.%u.attn_norm.weight", i);
    FATHOM_TRY(open_needed_vector(loader, name, d, &layer->attn_norm));
    snprintf(name, sizeof name, "blk.%u.ffn_norm.weight", i);
    FATHOM_TRY(open_needed_vector(loader, name, d, &layer->ffn_norm));
    const bool has_head_norms = strcmp(info->architecture, "qwen3") == 0;
    snprintf(name, sizeof name, "blk.%u.attn_q_norm.weight", i);
    FATHOM_TRY(open_vector(loader, name, info->d_k, &layer->q_norm));
    if (has_head_norms && layer->q_norm.dev == NULL) return missing(name);
    snprintf(name, sizeof name, "blk.%u.attn_k_norm.weight", i);
    FATHOM_TRY(open_vector(loader, name, info->d_k, &layer->k_norm));
    return has_head_norms && layer->k_norm.dev == NULL ? missing(name) : FATHOM_OK;
}

// The embedding stays where it is in the file; an untied output is a product like any other, a tied
// one a packed copy of the embedding.
static fathom_status open_ends(struct loader *loader)
{
    struct fathom_model *model = loader->model;
    const struct fathom_model_info *info = &model->info;
    const struct fathom_gguf_tensor *t;
    FATHOM_TRY(find_tensor(loader, "token_embd.weight", info->d_model, info->n_vocab, &t));
    if (t == NULL) return missing("token_embd.weight");
    struct weight_desc desc = describe("token_embd.weight", t);
    FATHOM_TRY(model->linear->table_open(model->device, &desc, &model->embedding));
    FATHOM_TRY(count(loader, t));
    FATHOM_TRY(
        open_needed_vector(loader, "output_norm.weight", info->d_model, &model->output_norm));
    if (fathom_gguf_tensor_find(model->gguf, "output.weight") != NULL)
        return open_affine(loader, "output", info->d_model, info->n_vocab, &model->output);
    desc.name = "token_embd.weight (output)";
    model->output.n_rows = info->n_vocab;
    return model->linear->weight_open(model->device, &desc, &model->output.weight);
}

static fathom_status read_divisors(struct loader *loader)
{
    struct fathom_model *model = loader->model;
    const uint32_t n_pairs = model->info.rope.n_rot / 2;
    FATHOM_TRY(read_vector(loader, "rope_freqs.weight", n_pairs, &model->rope_divisors));
    FATHOM_TRY(read_vector(loader, "rope_factors_long.weight", n_pairs, &model->rope_long));
    FATHOM_TRY(read_vector(loader, "rope_factors_short.weight", n_pairs, &model->rope_short));
    model->info.rope.divisors = model->rope_divisors;
    return FATHOM_OK;
}

fathom_status weights_open(struct fathom_model *model, const struct fathom_model_params *params)
{
    struct loader loader = {
        .model = model,
        .progress = params->progress,
        .progress_user = params->progress_user,
    };
    model->device = params->device;
    model->linear = linear_of(params->device);
    // Before a forged count takes memory; each layer has several.
    if (model->info.n_layers > fathom_gguf_tensor_count(model->gguf))
        return status_set(FATHOM_ECORRUPT, "block_count=%u, and the file has %zu tensors",
                          model->info.n_layers, fathom_gguf_tensor_count(model->gguf));
    FATHOM_TRY(arena_new(&model->arena, model->info.n_layers, sizeof *model->layers, "layers",
                         &model->layers));
    FATHOM_TRY(read_divisors(&loader));
    FATHOM_TRY(placement_choose(model, params, &model->info.n_device_layers));
    FATHOM_TRY(open_ends(&loader));
    for (uint32_t i = 0; i < model->info.n_layers; i++) {
        loader.in_ram = i < model->info.n_layers - model->info.n_device_layers;
        FATHOM_TRY(open_layer(&loader, i));
    }
    // Packed copies serve from here on. What else lies in the file comes back when it is touched.
    mem_discard((void *)(uintptr_t)model->gguf->bytes, model->gguf->file_bytes);
    const size_t n_unused = fathom_gguf_tensor_count(model->gguf) - loader.n_used;
    if (n_unused > 0)
        log_write(&model->device->log, FATHOM_LOG_WARN,
                  "model: tensors without a use are left out, count=%zu", n_unused);
    return FATHOM_OK;
}

static void close_vector(struct fathom_model *model, struct vector *vector)
{
    model->device->ops->release(model->device, vector->dev, vector->n * sizeof *vector->dev);
}

static void close_affine(struct fathom_model *model, struct affine *affine)
{
    model->linear->weight_close(model->device, &affine->weight);
    model->device->ops->release(model->device, affine->dev_bias,
                                affine->n_rows * sizeof *affine->dev_bias);
}

void weights_close(struct fathom_model *model)
{
    if (model->device == NULL) return;
    for (uint32_t i = 0; model->layers != NULL && i < model->info.n_layers; i++) {
        struct layer *layer = &model->layers[i];
        struct affine *affines[] = {&layer->q,    &layer->k,  &layer->v,   &layer->o,
                                    &layer->gate, &layer->up, &layer->down};
        struct vector *vectors[] = {&layer->attn_norm, &layer->ffn_norm, &layer->q_norm,
                                    &layer->k_norm};
        for (size_t a = 0; a < sizeof affines / sizeof *affines; a++)
            close_affine(model, affines[a]);
        for (size_t v = 0; v < sizeof vectors / sizeof *vectors; v++)
            close_vector(model, vectors[v]);
    }
    close_vector(model, &model->output_norm);
    close_affine(model, &model->output);
    model->linear->weight_close(model->device, &model->embedding);
}
