// The forward pass of a decoder-only transformer (llama, qwen2, qwen3): tokens in, logits out.
//
// KV goes through the public engine, everything else through the device's linear operations, so
// this file knows neither where tensors lie nor what computes them.

#include <string.h>

#include "src/base/dtype.h"
#include "src/base/mem.h"
#include "src/base/status.h"
#include "src/model/model.h"
#include "src/model/sampler.h"

enum {
    LOGIT_ROWS = 32, // rows of logits that lie on the device at a time
};

struct fathom_runner {
    const fathom_model *model; // held
    fathom_engine *engine;
    uint32_t n_batch;
    size_t dev_bytes;
    float *dev_block;   // one reservation; the rest point into it
    float *x;           // [n_batch, d_model], the residual stream
    float *h;           // [n_batch, d_model], normed
    float *q;           // [n_batch, n_heads, d_k]
    float *k;           // [n_batch, n_kv_heads, d_k]
    float *v;           // [n_batch, n_kv_heads, d_v]
    float *o;           // [n_batch, n_heads, d_v]
    float *gate;        // [n_batch, d_ff]
    float *up;          // [n_batch, d_ff]
    float *logits;      // [LOGIT_ROWS, n_vocab]
    float *host_logits; // [n_vocab], of a token that a sampler picks from
};

// Where what comes of a feed goes: any of these may be NULL, but next_id is there with a sampler.
struct outputs {
    float *logits;     // [n_vocab] of the last token
    float *all_logits; // [n_ids, n_vocab]
    fathom_sampler *sampler;
    int32_t *next_id;
};

// ---- Life ---------------------------------------------------------------------------------------

void fathom_runner_params_init(struct fathom_runner_params *params, const fathom_model *model)
{
    memset(params, 0, sizeof *params);
    params->struct_bytes = sizeof *params;
    params->n_batch = 512;
    params->n_seqs_max = 1;
    params->kv_type = FATHOM_TYPE_F16;
    params->rope = model->info.rope;
    fathom_kv_params_init(&params->kv);
}

static fathom_status open_engine(struct fathom_runner *runner,
                                 const struct fathom_runner_params *params)
{
    const struct fathom_model_info *info = &runner->model->info;
    struct fathom_engine_params engine;
    fathom_engine_params_init(&engine);
    engine.n_layers = info->n_layers;
    engine.n_heads = info->n_heads;
    engine.n_kv_heads = info->n_kv_heads;
    engine.d_k = info->d_k;
    engine.d_v = info->d_v;
    engine.n_tokens_max = params->n_tokens_max > 0 ? params->n_tokens_max : info->n_tokens_train;
    engine.n_step_max = params->n_batch;
    engine.n_seqs_max = params->n_seqs_max;
    engine.kv_type = params->kv_type;
    engine.scale = runner->model->attn_scale;
    engine.rope = params->rope;
    engine.kv = params->kv;
    // LongRoPE's divisors depend on the context that the user asks for, not on the tokens so far.
    if (engine.rope.scaling == FATHOM_ROPE_SCALING_LONGROPE && engine.rope.divisors == NULL)
        engine.rope.divisors = engine.n_tokens_max > engine.rope.n_orig_tokens
                                   ? runner->model->rope_long
                                   : runner->model->rope_short;
    return fathom_engine_open(runner->model->device, &engine, &runner->engine);
}

// Lays out the buffers of n_batch tokens one behind the other from `block`; returns their bytes.
static size_t place_buffers(struct fathom_runner *runner, const struct fathom_model_info *info,
                            size_t n_batch, float *block)
{
    enum { ALIGN_VALUES = MEM_ALIGN_BYTES / sizeof(float) };
    const struct {
        float **buffer;
        size_t n_values;
    } buffers[] = {
        {&runner->x, n_batch * info->d_model},
        {&runner->h, n_batch * info->d_model},
        {&runner->q, n_batch * info->n_heads * info->d_k},
        {&runner->k, n_batch * info->n_kv_heads * info->d_k},
        {&runner->v, n_batch * info->n_kv_heads * info->d_v},
        {&runner->o, n_batch * info->n_heads * info->d_v},
        {&runner->gate, n_batch * info->d_ff},
        {&runner->up, n_batch * info->d_ff},
        {&runner->logits, (size_t)LOGIT_ROWS * info->n_vocab},
    };
    size_t n_values = 0;
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        if (block != NULL) *buffers[i].buffer = block + n_values;
        n_values += size_round(buffers[i].n_values, ALIGN_VALUES);
    }
    return n_values * sizeof(float);
}

uint64_t fathom_runner_bytes(const fathom_model *model, uint32_t n_batch)
{
    struct fathom_runner none;
    return place_buffers(&none, &model->info, n_batch, NULL);
}

static fathom_status open_buffers(struct fathom_runner *runner)
{
    fathom_device *device = runner->model->device;
    void *block;
    runner->dev_bytes = (size_t)fathom_runner_bytes(runner->model, runner->n_batch);
    FATHOM_TRY(device->ops->alloc(device, runner->dev_bytes, "activations", &block));
    runner->dev_block = block;
    (void)place_buffers(runner, &runner->model->info, runner->n_batch, block);
    return mem_new(runner->model->info.n_vocab, sizeof *runner->host_logits, "logits",
                   &runner->host_logits);
}

fathom_status fathom_runner_open(const fathom_model *model,
                                 const struct fathom_runner_params *params, fathom_runner **runner)
{
    fathom_runner *r = NULL;
    fathom_status status;
    if (model == NULL || params == NULL || runner == NULL)
        return status_set(FATHOM_EINVAL, "fathom_runner_open: NULL argument");
    if (params->struct_bytes != sizeof *params)
        return status_set(FATHOM_EINVAL,
                          "runner params: struct_bytes=%u: call "
                          "fathom_runner_params_init first",
                          params->struct_bytes);
    if (model->device == NULL)
        return status_set(FATHOM_EINVAL,
                          "the model was opened without a device: it has no weights");
    if (params->n_batch == 0) return status_set(FATHOM_EINVAL, "n_batch=0: must be 1 or more");
    FATHOM_TRY(mem_new(1, sizeof *r, "runner", &r));
    r->model = model;
    r->n_batch = params->n_batch;
    FATHOM_CHECK(open_engine(r, params), out);
    FATHOM_CHECK(open_buffers(r), out);
    *runner = r;
    return FATHOM_OK;
out:
    fathom_runner_close(&r);
    return status;
}

void fathom_runner_close(fathom_runner **runner)
{
    if (runner == NULL || *runner == NULL) return;
    fathom_runner *r = *runner;
    fathom_device *device = r->model->device;
    device->ops->release(device, r->dev_block, r->dev_bytes);
    fathom_engine_close(&r->engine);
    mem_free(r->host_logits);
    mem_free(r);
    *runner = NULL;
}

fathom_engine *fathom_runner_engine(fathom_runner *runner)
{
    return runner->engine;
}

// ---- Forward ------------------------------------------------------------------------------------

static fathom_status norm(const struct fathom_runner *r, const float *x,
                          const struct vector *weight, float *out, size_t n_rows, size_t n_cols)
{
    const fathom_model *m = r->model;
    return m->linear->rmsnorm(m->device, x, weight->dev, out, n_rows, n_cols, m->eps);
}

static struct product product_of(const struct affine *affine, float *dev_out)
{
    return (struct product){affine->weight, affine->dev_bias, dev_out};
}

// x += affine(in)
static fathom_status add_affine(const struct fathom_runner *r, const struct affine *affine,
                                const float *in, float *x, uint32_t n_tokens)
{
    const struct matmul_many_args args = {
        .dev_x = in,
        .n_tokens = n_tokens,
        .n_products = 1,
        .accumulate = true,
        .products = {product_of(affine, x)},
    };
    return r->model->linear->matmul(r->model->device, &args);
}

// o = attention over the normed residual stream, with the new keys and values appended.
static fathom_status attend_layer(const struct fathom_runner *r, struct fathom_seq seq, uint32_t l,
                                  uint32_t n_tokens)
{
    const fathom_model *m = r->model;
    const struct fathom_model_info *info = &m->info;
    const struct layer *layer = &m->layers[l];
    FATHOM_TRY(norm(r, r->x, &layer->attn_norm, r->h, n_tokens, info->d_model));
    const struct matmul_many_args args = {
        .dev_x = r->h,
        .n_tokens = n_tokens,
        .n_products = 3,
        .products = {product_of(&layer->q, r->q), product_of(&layer->k, r->k),
                     product_of(&layer->v, r->v)},
    };
    FATHOM_TRY(m->linear->matmul(m->device, &args));
    if (layer->q_norm.dev != NULL)
        FATHOM_TRY(
            norm(r, r->q, &layer->q_norm, r->q, (size_t)n_tokens * info->n_heads, info->d_k));
    if (layer->k_norm.dev != NULL)
        FATHOM_TRY(
            norm(r, r->k, &layer->k_norm, r->k, (size_t)n_tokens * info->n_kv_heads, info->d_k));
    FATHOM_TRY(fathom_append(r->engine, seq, l, r->k, r->v));
    return fathom_attend(r->engine, seq, l, r->q, r->o);
}

// The rest of a layer, for n_tokens rows from `first` on: attention's output and the feed-forward
// part join the residual stream.
static fathom_status finish_layer(const struct fathom_runner *r, uint32_t l, uint32_t first,
                                  uint32_t n_tokens)
{
    const fathom_model *m = r->model;
    const struct fathom_model_info *info = &m->info;
    const struct layer *layer = &m->layers[l];
    float *x = r->x + (size_t)first * info->d_model;
    const float *o = r->o + (size_t)first * info->n_heads * info->d_v;
    FATHOM_TRY(add_affine(r, &layer->o, o, x, n_tokens));
    FATHOM_TRY(norm(r, x, &layer->ffn_norm, r->h, n_tokens, info->d_model));
    const struct matmul_many_args args = {
        .dev_x = r->h,
        .n_tokens = n_tokens,
        .n_products = 2,
        .products = {product_of(&layer->gate, r->gate), product_of(&layer->up, r->up)},
    };
    FATHOM_TRY(m->linear->matmul(m->device, &args));
    FATHOM_TRY(
        m->linear->swiglu(m->device, r->gate, r->up, r->gate, (size_t)n_tokens * info->d_ff));
    return add_affine(r, &layer->down, r->gate, x, n_tokens);
}

// r->logits = logits of n rows of the residual stream from `first` on; at most LOGIT_ROWS.
static fathom_status compute_logits(const struct fathom_runner *r, uint32_t first, uint32_t n)
{
    const fathom_model *m = r->model;
    const struct fathom_model_info *info = &m->info;
    FATHOM_TRY(
        norm(r, r->x + (size_t)first * info->d_model, &m->output_norm, r->h, n, info->d_model));
    const struct matmul_many_args args = {
        .dev_x = r->h,
        .n_tokens = n,
        .n_products = 1,
        .products = {product_of(&m->output, r->logits)},
    };
    return m->linear->matmul(m->device, &args);
}

// Logits of n_rows rows of the residual stream from `first` on, to host memory.
static fathom_status read_logits(const struct fathom_runner *r, uint32_t first, uint32_t n_rows,
                                 float *logits)
{
    const fathom_model *m = r->model;
    const size_t n_vocab = m->info.n_vocab;
    for (uint32_t done = 0; done < n_rows; done += LOGIT_ROWS) {
        const uint32_t n = n_rows - done < LOGIT_ROWS ? n_rows - done : LOGIT_ROWS;
        FATHOM_TRY(compute_logits(r, first + done, n));
        FATHOM_TRY(m->device->ops->download(m->device, logits + done * n_vocab, r->logits,
                                            n * n_vocab * sizeof *logits));
    }
    return FATHOM_OK;
}

static fathom_status pick_next(const struct fathom_runner *r, uint32_t row, fathom_sampler *sampler,
                               int32_t *next_id)
{
    const fathom_model *m = r->model;
    const uint32_t n_best = sampler_n_best(sampler);
    struct logit best[LOGITS_BEST_MAX];
    if (m->linear->best_logits == NULL || n_best == 0 || n_best > LOGITS_BEST_MAX) {
        FATHOM_TRY(read_logits(r, row, 1, r->host_logits));
        return fathom_sampler_pick(sampler, r->host_logits, next_id);
    }
    FATHOM_TRY(compute_logits(r, row, 1));
    FATHOM_TRY(m->linear->best_logits(m->device, r->logits, m->info.n_vocab, best, n_best));
    return sampler_pick_best(sampler, best, n_best, next_id);
}

// Runs the layers in an open step. Beyond the last layer's keys and values only the rows whose
// logits are asked for matter: [first_needed, n_tokens).
static fathom_status run_layers(const struct fathom_runner *r, struct fathom_seq seq,
                                uint32_t n_tokens, uint32_t first_needed)
{
    const uint32_t last = r->model->info.n_layers - 1;
    for (uint32_t l = 0; l <= last; l++) {
        const uint32_t first = l == last ? first_needed : 0;
        FATHOM_TRY(attend_layer(r, seq, l, n_tokens));
        FATHOM_TRY(finish_layer(r, l, first, n_tokens - first));
    }
    return FATHOM_OK;
}

static fathom_status feed(const struct fathom_runner *r, struct fathom_seq seq, const int32_t *ids,
                          uint32_t n_ids, const struct outputs *out)
{
    const fathom_model *m = r->model;
    const uint32_t last = n_ids - 1;
    FATHOM_TRY(m->linear->embed(m->device, m->embedding, ids, n_ids, r->x));
    FATHOM_TRY(run_layers(r, seq, n_ids, out->all_logits != NULL ? 0 : last));
    if (out->all_logits != NULL) FATHOM_TRY(read_logits(r, 0, n_ids, out->all_logits));
    if (out->logits != NULL) FATHOM_TRY(read_logits(r, last, 1, out->logits));
    if (out->sampler != NULL) FATHOM_TRY(pick_next(r, last, out->sampler, out->next_id));
    return m->device->ops->sync(m->device);
}

static fathom_status feed_step(fathom_runner *runner, struct fathom_seq seq, const int32_t *ids,
                               uint32_t n_ids, const struct outputs *out)
{
    if (n_ids == 0 || n_ids > runner->n_batch)
        return status_set(FATHOM_EINVAL, "%u tokens: must be 1 to n_batch=%u", n_ids,
                          runner->n_batch);
    for (uint32_t i = 0; i < n_ids; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= runner->model->info.n_vocab)
            return status_set(FATHOM_EINVAL, "token id %d: the vocabulary has %u", (int)ids[i],
                              runner->model->info.n_vocab);
    FATHOM_TRY(fathom_step_begin(runner->engine, seq, n_ids));
    fathom_device *device = runner->model->device;
    if (n_ids == 1) device->ops->step_begin(device);
    fathom_status status = feed(runner, seq, ids, n_ids, out);
    if (n_ids == 1) device->ops->step_end(device);
    if (status >= 0) status = fathom_step_end(runner->engine, seq);
    if (status < 0) fathom_step_cancel(runner->engine, seq);
    return status;
}

fathom_status fathom_runner_feed(fathom_runner *runner, struct fathom_seq seq, const int32_t *ids,
                                 uint32_t n_ids, float *logits, float *all_logits)
{
    const struct outputs out = {.logits = logits, .all_logits = all_logits};
    if (runner == NULL || ids == NULL) return status_set(FATHOM_EINVAL, "NULL argument");
    return feed_step(runner, seq, ids, n_ids, &out);
}

fathom_status fathom_runner_feed_pick(fathom_runner *runner, struct fathom_seq seq,
                                      const int32_t *ids, uint32_t n_ids, fathom_sampler *sampler,
                                      int32_t *next_id)
{
    const struct outputs out = {.sampler = sampler, .next_id = next_id};
    if (runner == NULL || ids == NULL || sampler == NULL || next_id == NULL)
        return status_set(FATHOM_EINVAL, "NULL argument");
    if (sampler_n_vocab(sampler) != runner->model->info.n_vocab)
        return status_set(FATHOM_EINVAL, "a sampler of %u tokens: the vocabulary has %u",
                          sampler_n_vocab(sampler), runner->model->info.n_vocab);
    return feed_step(runner, seq, ids, n_ids, &out);
}
