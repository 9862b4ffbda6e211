// Sequences: their life, and what they have in common with one another.

#include "src/kv/seq.h"

#include <string.h>

#include "src/base/status.h"

fathom_status seq_find(const fathom_engine *engine, struct fathom_seq seq, struct slot **slot)
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

static fathom_status find_outside_step(const fathom_engine *engine, struct fathom_seq seq,
                                       struct slot **slot)
{
    FATHOM_TRY(seq_find(engine, seq, slot));
    if ((*slot)->step_tokens != 0)
        return status_set(FATHOM_EINVAL, "a step is open: end or cancel it first");
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
    FATHOM_TRY(tail_open(engine, slot));
    slot->generation++;
    slot->n_tokens = 0;
    slot->step_tokens = 0;
    slot->sealed_end = engine->params.kv.n_sink;
    slot->n_sealed = 0;
    slot->n_samples = 0;
    slot->calibration = (struct calibration){0};
    seq->slot = i;
    seq->generation = slot->generation;
    return FATHOM_OK;
}

// Drops the sealed segments from `first` on.
static void drop_sealed(fathom_engine *engine, struct slot *slot, uint32_t first)
{
    while (slot->n_sealed > first)
        segment_drop(&engine->segments, slot->sealed[--slot->n_sealed].segment);
}

fathom_status fathom_seq_free(fathom_engine *engine, struct fathom_seq seq)
{
    struct slot *slot;
    FATHOM_TRY(seq_find(engine, seq, &slot));
    seal_cancel(engine, slot);
    drop_sealed(engine, slot, 0);
    engine->device->ops->discard(engine->device, slot->dev_rows, engine->slot_bytes);
    slot->generation++;
    return FATHOM_OK;
}

static void copy_tail(fathom_engine *engine, struct slot *to, const struct slot *from)
{
    const struct device_ops *ops = engine->device->ops;
    const uint32_t n_heads = engine->params.n_layers * engine->params.n_kv_heads;
    const uint32_t n = tail_row(engine, from, from->n_tokens);
    for (uint32_t head = 0; head < n_heads; head++) {
        ops->move(engine->device, tail_keys(engine, to, head), tail_keys(engine, from, head),
                  n * engine->k_row_bytes);
        ops->move(engine->device, tail_values(engine, to, head), tail_values(engine, from, head),
                  n * engine->v_row_bytes);
    }
}

fathom_status fathom_seq_fork(fathom_engine *engine, struct fathom_seq seq, struct fathom_seq *fork)
{
    struct slot *from, *to;
    struct fathom_seq made;
    if (fork == NULL) return status_set(FATHOM_EINVAL, "fork is NULL");
    FATHOM_TRY(find_outside_step(engine, seq, &from));
    FATHOM_TRY(fathom_seq_create(engine, &made));
    FATHOM_TRY(seq_find(engine, made, &to));
    to->n_tokens = from->n_tokens;
    to->sealed_end = from->sealed_end;
    to->n_sealed = from->n_sealed;
    to->calibration = from->calibration;
    for (uint32_t i = 0; i < from->n_sealed; i++) {
        to->sealed[i] = from->sealed[i];
        segment_hold(to->sealed[i].segment);
    }
    if (from->samples != NULL) {
        to->n_samples = from->n_samples;
        memcpy(to->samples, from->samples, engine->sample_bytes);
    }
    copy_tail(engine, to, from);
    *fork = made;
    return FATHOM_OK;
}

// The key of a segment's i-th token, from its row into the tail.
static fathom_status unseal_key(const fathom_engine *engine, const struct slot *slot, uint32_t i,
                                const uint8_t *row, uint8_t *dev_row)
{
    enum { D_MAX = 256 };
    fathom_device *device = engine->device;
    const struct fathom_engine_params *p = &engine->params;
    float k[D_MAX], turned[D_MAX]; // room for a row of any type
    if (slot->turns == NULL) return device->ops->upload(device, dev_row, row, engine->k_row_bytes);
    device->kernels->dequant_row(p->kv_type, row, k, p->d_k);
    collapse_turn(engine, slot, i, k);
    device->kernels->convert(p->kv_type, k, turned, p->d_k);
    return device->ops->upload(device, dev_row, turned, engine->k_row_bytes);
}

// Rows of a small segment go back to the tail, where they came from: so only merged segments are
// ever capped.
static fathom_status unseal(fathom_engine *engine, struct slot *slot, const struct sealed *sealed,
                            uint32_t n_keep)
{
    fathom_device *device = engine->device;
    const struct segments *segments = &engine->segments;
    const struct segment *segment = sealed->segment;
    const struct segment_class *class = segment_class(segments, segment);
    const size_t k_bytes = class->k_row_bytes, v_bytes = class->v_row_bytes;
    collapse_prepare(engine, slot, sealed->begin, false);
    for (uint32_t head = 0; head < segments->n_heads; head++) {
        const void *index = segment_index(segments, segment, head);
        const uint8_t *rows = segment_rows(segments, segment, head);
        const uint16_t *positions = engine->selector_ops->positions(index);
        const uint32_t *begins = engine->selector_ops->unit_begins(index);
        for (uint32_t row = 0, unit = 0; row < segment->n_rows; row++) {
            while (row >= begins[unit + 1])
                unit++;
            if (sealed->begin + positions[row] >= n_keep) continue;
            const uint32_t n = begins[unit + 1] - begins[unit], i = row - begins[unit];
            const uint8_t *at = rows + begins[unit] * (k_bytes + v_bytes);
            const size_t to = engine->params.kv.n_sink + positions[row];
            FATHOM_TRY(unseal_key(engine, slot, positions[row], at + i * k_bytes,
                                  tail_keys(engine, slot, head) + to * k_bytes));
            FATHOM_TRY(device->ops->upload(device, tail_values(engine, slot, head) + to * v_bytes,
                                           at + n * k_bytes + i * v_bytes, v_bytes));
        }
    }
    return FATHOM_OK;
}

fathom_status fathom_seq_truncate(fathom_engine *engine, struct fathom_seq seq, uint32_t n_keep)
{
    struct slot *slot;
    FATHOM_TRY(find_outside_step(engine, seq, &slot));
    if (n_keep > slot->n_tokens)
        return status_set(FATHOM_EINVAL, "n_keep=%u: the sequence has %u tokens", n_keep,
                          slot->n_tokens);
    if (n_keep < slot->sealed_end + engine->params.kv.n_segment) seal_cancel(engine, slot);
    if (n_keep < slot->sealed_end && slot->n_sealed > 0) {
        uint32_t i = slot->n_sealed;
        while (i > 0 && slot->sealed[i - 1].begin >= n_keep)
            i--;
        uint32_t sealed_end = i > 0 ? n_keep : engine->params.kv.n_sink;
        struct sealed *last = i > 0 ? &slot->sealed[i - 1] : NULL;
        if (last != NULL && last->end > n_keep && last->segment->size == SEGMENT_SMALL) {
            FATHOM_TRY(unseal(engine, slot, last, n_keep));
            sealed_end = last->begin;
            i--;
        } else if (last != NULL && last->end > n_keep) {
            last->end = n_keep;
        }
        drop_sealed(engine, slot, i);
        slot->sealed_end = sealed_end;
    }
    slot->n_tokens = n_keep;
    return FATHOM_OK;
}

fathom_status fathom_seq_count(const fathom_engine *engine, struct fathom_seq seq,
                               uint32_t *n_tokens)
{
    struct slot *slot;
    FATHOM_TRY(seq_find(engine, seq, &slot));
    *n_tokens = slot->n_tokens;
    return FATHOM_OK;
}
