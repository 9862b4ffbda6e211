// Collapsed positions (InfLLM, arXiv 2402.04617): sealed keys are kept as at position 0, and asked
// by queries at one position. So all are equally far from every query, however long the sequence,
// and a model sees no distance that it was not trained on. Sealing turns keys back; what truncation
// takes back into the tail is turned again.

#include "src/kv/engine.h"

#include "src/base/mem.h"
#include "src/base/pool.h"
#include "src/base/status.h"
#include "src/kv/rope.h"

static bool is_collapsed(const fathom_engine *engine)
{
    return engine->tiered && engine->params.kv.positions == FATHOM_POSITIONS_COLLAPSED;
}

size_t collapse_turn_bytes(const fathom_engine *engine)
{
    const struct fathom_engine_params *p = &engine->params;
    return is_collapsed(engine) ? (size_t)p->kv.n_segment * p->rope.n_rot * sizeof(float) : 0;
}

fathom_status collapse_open(fathom_engine *engine)
{
    const struct fathom_engine_params *p = &engine->params;
    if (!is_collapsed(engine)) return FATHOM_OK;
    FATHOM_TRY(mem_new(p->rope.n_rot, sizeof(float), "rope table", &engine->far_cos_sin));
    rope_table(engine->frequencies, engine->magnitude, p->rope.n_rot,
               p->kv.n_window + 2 * p->kv.n_segment, 1, engine->far_cos_sin);
    for (uint32_t i = 0; i < p->n_seqs_max; i++)
        FATHOM_TRY(
            mem_new(1, collapse_turn_bytes(engine), "turns of keys", &engine->slots[i].turns));
    return FATHOM_OK;
}

void collapse_close(fathom_engine *engine)
{
    mem_free(engine->far_cos_sin);
    for (uint32_t i = 0; engine->slots != NULL && i < engine->params.n_seqs_max; i++)
        mem_free(engine->slots[i].turns);
}

// The magnitude of the rotation stays in the keys, as it would be in keys at position 0.
void collapse_prepare(const fathom_engine *engine, struct slot *slot, uint32_t first, bool back)
{
    const struct fathom_engine_params *p = &engine->params;
    const size_t n_values = (size_t)p->kv.n_segment * p->rope.n_rot;
    if (slot->turns == NULL) return;
    rope_table(engine->frequencies, 1.0f, p->rope.n_rot, first, p->kv.n_segment, slot->turns);
    for (size_t i = 1; i < n_values && back; i += 2)
        slot->turns[i] = -slot->turns[i]; // sines
}

void collapse_turn(const fathom_engine *engine, const struct slot *slot, uint32_t i, float *k)
{
    const struct fathom_engine_params *p = &engine->params;
    if (slot->turns == NULL) return;
    engine->device->kernels->rope(k, slot->turns + (size_t)i * p->rope.n_rot, 1, p->d_k,
                                  p->rope.n_rot, p->rope.pairing);
}

// ---- Sinks --------------------------------------------------------------------------------------

uint32_t collapse_sinks(const fathom_engine *engine, const struct slot *slot)
{
    return engine->far_cos_sin != NULL && slot->n_sealed > 0 ? engine->params.kv.n_sink : 0;
}

struct sink_share {
    const fathom_engine *engine;
    const struct slot *slot;
    uint32_t layer;
    float *o;
    float *lse;
};

// Rows row .. row + n - 1 of a strip, brought to the host. Nothing is sealed meanwhile, so scratch
// of sealing has room: n_segment rows of keys in f32, and of values behind them.
static struct kv_run download_rows(const struct sink_share *s, uint32_t head, uint32_t row,
                                   uint32_t n, uint32_t thread)
{
    const fathom_engine *engine = s->engine;
    const struct device_ops *ops = engine->device->ops;
    const size_t k_bytes = engine->k_row_bytes, v_bytes = engine->v_row_bytes;
    uint8_t *k = engine->workers[thread].build;
    uint8_t *v = k + (size_t)engine->params.kv.n_segment * k_bytes;
    // Downloads from a device's own memory do not fail for want of anything but the device.
    (void)ops->download(engine->device, k, tail_keys(engine, s->slot, head) + row * k_bytes,
                        n * k_bytes);
    (void)ops->download(engine->device, v, tail_values(engine, s->slot, head) + row * v_bytes,
                        n * v_bytes);
    return (struct kv_run){.k = k, .v = v, .n_rows = n};
}

static void attend_sinks_range(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct sink_share *s = arg;
    const fathom_engine *engine = s->engine;
    const struct fathom_engine_params *p = &engine->params;
    for (size_t kv_head = begin; kv_head < end; kv_head++) {
        const size_t first = kv_head * engine->group;
        struct kv_run run;
        const struct attend_runs_args args = {
            .q = engine->rotated + first * p->d_k,
            .q_stride = (size_t)p->n_heads * p->d_k,
            .n_tokens = s->slot->step_tokens,
            .group = engine->group,
            .format = {0, p->kv_type, p->d_k, p->d_v},
            .runs = &run,
            .n_runs = 1,
            .scale = p->scale,
            .accumulate = true,
            .o = s->o + first * p->d_v,
            .o_stride = (size_t)p->n_heads * p->d_v,
            .lse = s->lse + first,
            .lse_stride = p->n_heads,
            .scratch = engine->workers[thread].attend,
        };
        for (uint32_t row = 0; row < p->kv.n_sink; row += run.n_rows) {
            const uint32_t left = p->kv.n_sink - row;
            run = download_rows(s, s->layer * p->n_kv_heads + (uint32_t)kv_head, row,
                                left < p->kv.n_segment ? left : p->kv.n_segment, thread);
            engine->device->kernels->kv.attend_runs(&args);
        }
    }
}

void collapse_attend_sinks(fathom_engine *engine, const struct slot *slot, uint32_t layer, float *o,
                           float *lse)
{
    struct sink_share share = {engine, slot, layer, o, lse};
    if (collapse_sinks(engine, slot) == 0) return;
    pool_for(engine->device->pool, engine->params.n_kv_heads, 1, attend_sinks_range, &share);
}
