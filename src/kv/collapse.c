// Collapsed positions (InfLLM, arXiv 2402.04617): sealed keys are kept as at position 0, and asked
// by queries at one position. So all are equally far from every query, however long the sequence,
// and a model sees no distance that it was not trained on. Sealing turns keys back; what truncation
// takes back into the tail is turned again.

#include "src/kv/engine.h"

#include "src/base/mem.h"
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
