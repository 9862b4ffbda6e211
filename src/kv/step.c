// Steps: the public calls that add rows and attend to them.

#include "src/kv/seq.h"

#include <string.h>

#include "src/base/status.h"
#include "src/kv/rope.h"

static fathom_status set_rope_table(fathom_engine *engine, struct slot *slot, uint32_t n_tokens)
{
    const uint32_t n_rot = engine->params.rope.n_rot;
    if (engine->frequencies == NULL) return FATHOM_OK;
    rope_table(engine->frequencies, engine->magnitude, n_rot, slot->n_tokens, n_tokens,
               slot->cos_sin);
    return engine->device->ops->upload(engine->device, slot->dev_cos_sin, slot->cos_sin,
                                       (size_t)n_tokens * n_rot * sizeof *slot->cos_sin);
}

fathom_status fathom_step_begin(fathom_engine *engine, struct fathom_seq seq, uint32_t n_tokens)
{
    struct slot *slot;
    FATHOM_TRY(seq_find(engine, seq, &slot));
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
    FATHOM_TRY(seal_make_room(engine, slot, n_tokens));
    if (n_tokens == 1) calibrate(engine, slot);
    FATHOM_TRY(set_rope_table(engine, slot, n_tokens));
    memset(slot->appended, 0, p->n_layers * sizeof *slot->appended);
    slot->n_appended = 0;
    slot->step_tokens = n_tokens;
    slot->attended = false;
    return FATHOM_OK;
}

// The slot with an open step, and a layer that exists.
static fathom_status find_step(const fathom_engine *engine, struct fathom_seq seq, uint32_t layer,
                               struct slot **slot)
{
    FATHOM_TRY(seq_find(engine, seq, slot));
    if ((*slot)->step_tokens == 0)
        return status_set(FATHOM_EINVAL, "no step is open: call fathom_step_begin first");
    if (layer >= engine->params.n_layers)
        return status_set(FATHOM_EINVAL, "layer=%u: the engine has %u", layer,
                          engine->params.n_layers);
    return FATHOM_OK;
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
        .dev_rows = tail_keys(engine, slot, layer * p->n_kv_heads),
        .head_stride_bytes = engine->n_tail_max * engine->k_row_bytes,
        .row_bytes = engine->k_row_bytes,
        .row = tail_row(engine, slot, slot->n_tokens),
    };
    FATHOM_TRY(engine->device->ops->store_rows(engine->device, &args));
    args.dev_x = v;
    args.d = p->d_v;
    args.dev_cos_sin = NULL;
    args.dev_rows = tail_values(engine, slot, layer * p->n_kv_heads);
    args.head_stride_bytes = engine->n_tail_max * engine->v_row_bytes;
    args.row_bytes = engine->v_row_bytes;
    FATHOM_TRY(engine->device->ops->store_rows(engine->device, &args));
    FATHOM_TRY(tap_show(engine, seq, slot, FATHOM_TAP_KEYS, layer, k));
    FATHOM_TRY(tap_show(engine, seq, slot, FATHOM_TAP_VALUES, layer, v));
    slot->appended[layer] = true;
    slot->n_appended++;
    return FATHOM_OK;
}

fathom_status fathom_attend(fathom_engine *engine, struct fathom_seq seq, uint32_t layer,
                            const float *q, float *out)
{
    struct slot *slot;
    FATHOM_TRY(find_step(engine, seq, layer, &slot));
    if (!slot->appended[layer])
        return status_set(FATHOM_EINVAL, "layer %u: append the step's keys before attending",
                          layer);
    FATHOM_TRY(tap_show(engine, seq, slot, FATHOM_TAP_QUERIES, layer, q));
    if (engine->tiered) return attend_tiered(engine, slot, layer, q, out);
    return attend_tail(engine, slot, layer, q, out, NULL);
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
    const uint32_t n_new = slot->step_tokens;
    slot->n_tokens += n_new;
    if (slot->attended) slot->n_samples++;
    slot->step_tokens = 0;
    if (n_new > 1) slot->calibration.prefilled = true;
    seal_advance(engine, slot, n_new);
    return FATHOM_OK;
}

void fathom_step_cancel(fathom_engine *engine, struct fathom_seq seq)
{
    struct slot *slot;
    if (seq_find(engine, seq, &slot) == FATHOM_OK) slot->step_tokens = 0;
}
