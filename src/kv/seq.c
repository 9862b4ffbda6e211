// Sequences and their steps: the public calls that add rows and attend to them.

#include "src/kv/engine.h"

#include <string.h>

#include "src/base/status.h"
#include "src/kv/rope.h"

static fathom_status find_slot(const fathom_engine *engine, struct fathom_seq seq,
                               struct slot **slot)
{
    if (engine == NULL) return status_set(FATHOM_EINVAL, "engine is NULL");
    if (seq.slot >= engine->params.n_seqs_max ||
        engine->slots[seq.slot].generation != seq.generation || seq.generation % 2 == 0)
        return status_set(FATHOM_EINVAL,
                          "sequence %u.%u is not alive: it was freed, or never created", seq.slot,
                          seq.generation);
    *slot = &engine->slots[seq.slot];
    return FATHOM_OK;
}

// Memory of a slot, which keeps it from sequence to sequence.
static fathom_status open_slot(const fathom_engine *engine, struct slot *slot)
{
    fathom_device *device = engine->device;
    void *dev;
    if (slot->dev_rows == NULL) {
        FATHOM_TRY(device->ops->alloc(device, engine->slot_bytes, "keys and values", &dev));
        slot->dev_rows = dev;
    }
    if (slot->dev_cos_sin == NULL && engine->frequencies != NULL) {
        FATHOM_TRY(device->ops->alloc(device, engine->table_bytes, "rope table", &dev));
        slot->dev_cos_sin = dev;
    }
    return FATHOM_OK;
}

fathom_status fathom_seq_create(fathom_engine *engine, struct fathom_seq *seq)
{
    if (engine == NULL || seq == NULL) return status_set(FATHOM_EINVAL, "NULL argument");
    uint32_t i = 0;
    while (i < engine->params.n_seqs_max && engine->slots[i].generation % 2 == 1)
        i++;
    if (i == engine->params.n_seqs_max)
        return status_set(FATHOM_EFULL,
                          "all %u sequences are in use: free one, or open the engine "
                          "with a larger n_seqs_max",
                          i);
    struct slot *slot = &engine->slots[i];
    FATHOM_TRY(open_slot(engine, slot));
    slot->generation++;
    slot->n_tokens = 0;
    slot->step_tokens = 0;
    seq->slot = i;
    seq->generation = slot->generation;
    return FATHOM_OK;
}

fathom_status fathom_seq_free(fathom_engine *engine, struct fathom_seq seq)
{
    struct slot *slot;
    FATHOM_TRY(find_slot(engine, seq, &slot));
    engine->device->ops->discard(engine->device, slot->dev_rows, engine->slot_bytes);
    slot->generation++;
    return FATHOM_OK;
}

fathom_status fathom_seq_truncate(fathom_engine *engine, struct fathom_seq seq, uint32_t n_keep)
{
    struct slot *slot;
    FATHOM_TRY(find_slot(engine, seq, &slot));
    if (slot->step_tokens != 0)
        return status_set(FATHOM_EINVAL, "a step is open: end or cancel it before truncating");
    if (n_keep > slot->n_tokens)
        return status_set(FATHOM_EINVAL, "n_keep=%u: the sequence has %u tokens", n_keep,
                          slot->n_tokens);
    slot->n_tokens = n_keep;
    return FATHOM_OK;
}

fathom_status fathom_seq_count(const fathom_engine *engine, struct fathom_seq seq,
                               uint32_t *n_tokens)
{
    struct slot *slot;
    FATHOM_TRY(find_slot(engine, seq, &slot));
    *n_tokens = slot->n_tokens;
    return FATHOM_OK;
}

// ---- Steps --------------------------------------------------------------------------------------

fathom_status fathom_step_begin(fathom_engine *engine, struct fathom_seq seq, uint32_t n_tokens)
{
    struct slot *slot;
    FATHOM_TRY(find_slot(engine, seq, &slot));
    const struct fathom_engine_params *p = &engine->params;
    if (slot->step_tokens != 0)
        return status_set(FATHOM_EINVAL, "a step is open: end or cancel it first");
    if (n_tokens == 0 || n_tokens > p->n_step_max)
        return status_set(FATHOM_EINVAL, "a step of %u tokens: must be 1 to n_step_max=%u",
                          n_tokens, p->n_step_max);
    if (n_tokens > p->n_tokens_max - slot->n_tokens)
        return status_set(FATHOM_EFULL,
                          "%u tokens and %u more exceed the context of %u: enlarge it",
                          slot->n_tokens, n_tokens, p->n_tokens_max);
    if (engine->frequencies != NULL) {
        rope_table(engine->frequencies, engine->magnitude, p->rope.n_rot, slot->n_tokens, n_tokens,
                   engine->cos_sin);
        FATHOM_TRY(engine->device->ops->upload(engine->device, slot->dev_cos_sin, engine->cos_sin,
                                               (size_t)n_tokens * p->rope.n_rot *
                                                   sizeof *engine->cos_sin));
    }
    memset(slot->appended, 0, p->n_layers * sizeof *slot->appended);
    slot->n_appended = 0;
    slot->step_tokens = n_tokens;
    return FATHOM_OK;
}

// The slot with an open step, and a layer that exists.
static fathom_status find_step(const fathom_engine *engine, struct fathom_seq seq, uint32_t layer,
                               struct slot **slot)
{
    FATHOM_TRY(find_slot(engine, seq, slot));
    if ((*slot)->step_tokens == 0)
        return status_set(FATHOM_EINVAL, "no step is open: call fathom_step_begin first");
    if (layer >= engine->params.n_layers)
        return status_set(FATHOM_EINVAL, "layer=%u: the engine has %u", layer,
                          engine->params.n_layers);
    return FATHOM_OK;
}

static uint8_t *layer_keys(const fathom_engine *engine, const struct slot *slot, uint32_t layer)
{
    const struct fathom_engine_params *p = &engine->params;
    return slot->dev_rows + (size_t)layer * p->n_kv_heads * p->n_tokens_max * engine->k_row_bytes;
}

static uint8_t *layer_values(const fathom_engine *engine, const struct slot *slot, uint32_t layer)
{
    const struct fathom_engine_params *p = &engine->params;
    return layer_keys(engine, slot, p->n_layers) +
           (size_t)layer * p->n_kv_heads * p->n_tokens_max * engine->v_row_bytes;
}

fathom_status fathom_append(fathom_engine *engine, struct fathom_seq seq, uint32_t layer,
                            const float *k, const float *v)
{
    struct slot *slot;
    FATHOM_TRY(find_step(engine, seq, layer, &slot));
    const struct fathom_engine_params *p = &engine->params;
    if (slot->appended[layer])
        return status_set(FATHOM_EINVAL, "layer %u was appended to in this step", layer);
    struct store_rows_args args = {
        .dev_x = k,
        .n_tokens = slot->step_tokens,
        .n_heads = p->n_kv_heads,
        .d = p->d_k,
        .dev_cos_sin = slot->dev_cos_sin,
        .n_rot = p->rope.n_rot,
        .pairing = p->rope.pairing,
        .type = p->kv_type,
        .dev_rows = layer_keys(engine, slot, layer),
        .head_stride_bytes = p->n_tokens_max * engine->k_row_bytes,
        .row_bytes = engine->k_row_bytes,
        .row = slot->n_tokens,
    };
    FATHOM_TRY(engine->device->ops->store_rows(engine->device, &args));
    args.dev_x = v;
    args.d = p->d_v;
    args.dev_cos_sin = NULL;
    args.dev_rows = layer_values(engine, slot, layer);
    args.head_stride_bytes = p->n_tokens_max * engine->v_row_bytes;
    args.row_bytes = engine->v_row_bytes;
    FATHOM_TRY(engine->device->ops->store_rows(engine->device, &args));
    slot->appended[layer] = true;
    slot->n_appended++;
    return FATHOM_OK;
}

fathom_status fathom_attend(fathom_engine *engine, struct fathom_seq seq, uint32_t layer,
                            const float *q, float *out)
{
    struct slot *slot;
    FATHOM_TRY(find_step(engine, seq, layer, &slot));
    const struct fathom_engine_params *p = &engine->params;
    if (!slot->appended[layer])
        return status_set(FATHOM_EINVAL, "layer %u: append the step's keys before attending",
                          layer);
    const struct dense_attend_args args = {
        .dev_q = q,
        .n_tokens = slot->step_tokens,
        .n_heads = p->n_heads,
        .n_kv_heads = p->n_kv_heads,
        .d_k = p->d_k,
        .d_v = p->d_v,
        .dev_cos_sin = slot->dev_cos_sin,
        .n_rot = p->rope.n_rot,
        .pairing = p->rope.pairing,
        .kv_type = p->kv_type,
        .dev_k = layer_keys(engine, slot, layer),
        .k_head_stride_bytes = p->n_tokens_max * engine->k_row_bytes,
        .k_row_bytes = engine->k_row_bytes,
        .dev_v = layer_values(engine, slot, layer),
        .v_head_stride_bytes = p->n_tokens_max * engine->v_row_bytes,
        .v_row_bytes = engine->v_row_bytes,
        .n_keys = slot->n_tokens + slot->step_tokens,
        .n_window = p->n_window,
        .scale = p->scale,
        .dev_out = out,
    };
    return engine->device->ops->attend_dense(engine->device, &args);
}

fathom_status fathom_step_end(fathom_engine *engine, struct fathom_seq seq)
{
    struct slot *slot;
    FATHOM_TRY(find_step(engine, seq, 0, &slot));
    if (slot->n_appended != engine->params.n_layers)
        return status_set(FATHOM_EINVAL,
                          "%u of %u layers were appended to: append to the others, or "
                          "cancel the step",
                          slot->n_appended, engine->params.n_layers);
    slot->n_tokens += slot->step_tokens;
    slot->step_tokens = 0;
    return FATHOM_OK;
}

void fathom_step_cancel(fathom_engine *engine, struct fathom_seq seq)
{
    struct slot *slot;
    if (find_slot(engine, seq, &slot) == FATHOM_OK) slot->step_tokens = 0;
}
