// The engine's life: checks its parameters, sizes and opens everything that steps will need.
//
// After open, the data path takes no memory but the pages that new rows touch.

#include "src/kv/engine.h"

#include <math.h>
#include <string.h>

#include "src/base/dtype.h"
#include "src/base/mem.h"
#include "src/base/status.h"
#include "src/kv/rope.h"

enum { ROWS_ALIGN_BYTES = 64 };

static fathom_status size_slot(fathom_engine *engine)
{
    const struct fathom_engine_params *p = &engine->params;
    const size_t n_strips = (size_t)p->n_layers * p->n_kv_heads;
    size_t n_rows;
    if (!size_mul(n_strips, engine->n_tail_max, &n_rows) ||
        !size_mul(n_rows, engine->k_row_bytes + engine->v_row_bytes, &engine->slot_bytes) ||
        !size_add(engine->slot_bytes, ROWS_ALIGN_BYTES, &engine->slot_bytes))
        return status_set(FATHOM_ENOMEM,
                          "n_tokens_max=%u: its keys and values exceed the address "
                          "space",
                          p->n_tokens_max);
    return FATHOM_OK;
}

static fathom_status open_rope(fathom_engine *engine)
{
    struct fathom_rope *rope = &engine->params.rope;
    if (rope->pairing == FATHOM_ROPE_NONE) return FATHOM_OK;
    const size_t n_pairs = rope->n_rot / 2;
    const size_t n_values = (size_t)engine->params.n_step_max * rope->n_rot;
    FATHOM_TRY(
        mem_new(n_pairs, sizeof *engine->frequencies, "rope frequencies", &engine->frequencies));
    engine->table_bytes = n_values * sizeof(float);
    rope_frequencies(rope, engine->frequencies, &engine->magnitude);
    rope->divisors = NULL; // folded into the frequencies
    return FATHOM_OK;
}

static fathom_status open_slot(const fathom_engine *engine, struct slot *slot)
{
    FATHOM_TRY(mem_new(engine->params.n_layers, 1, "sequence slot", &slot->appended));
    if (engine->table_bytes > 0)
        FATHOM_TRY(mem_new(1, engine->table_bytes, "rope table", &slot->cos_sin));
    if (!engine->tiered) return FATHOM_OK;
    FATHOM_TRY(mem_new(engine->n_sealed_max, sizeof *slot->sealed, "segments", &slot->sealed));
    return mem_new(1, engine->sample_bytes, "query samples", &slot->samples);
}

fathom_status fathom_engine_open(fathom_device *device, const struct fathom_engine_params *params,
                                 fathom_engine **engine)
{
    fathom_engine *e = NULL;
    fathom_status status;
    if (device == NULL || params == NULL || engine == NULL)
        return status_set(FATHOM_EINVAL, "fathom_engine_open: NULL argument");
    FATHOM_TRY(params_check(params));
    FATHOM_TRY(mem_new(1, sizeof *e, "engine", &e));
    e->device = device;
    e->params = *params;
    if (e->params.scale == 0.0f) e->params.scale = 1.0f / sqrtf((float)e->params.d_k);
    if (e->params.rope.n_rot == 0) e->params.rope.n_rot = e->params.d_k & ~1u;
    FATHOM_CHECK(rope_check(&e->params.rope, e->params.d_k), out);
    e->group = e->params.n_heads / e->params.n_kv_heads;
    e->k_row_bytes = dtype_row_bytes(e->params.kv_type, e->params.d_k);
    e->v_row_bytes = dtype_row_bytes(e->params.kv_type, e->params.d_v);
    FATHOM_CHECK(plan_open(e), out);
    e->params.kv.head_budgets = NULL; // the caller's
    e->params.kv.disk_path = NULL;    // likewise
    FATHOM_CHECK(size_slot(e), out);
    FATHOM_CHECK(open_rope(e), out);
    FATHOM_CHECK(mem_new(e->params.n_seqs_max, sizeof *e->slots, "sequence slots", &e->slots), out);
    for (uint32_t i = 0; i < e->params.n_seqs_max; i++)
        FATHOM_CHECK(open_slot(e, &e->slots[i]), out);
    FATHOM_CHECK(collapse_open(e), out);
    *engine = e;
    return FATHOM_OK;
out:
    fathom_engine_close(&e);
    return status;
}

void fathom_engine_close(fathom_engine **engine)
{
    if (engine == NULL || *engine == NULL) return;
    fathom_engine *e = *engine;
    for (uint32_t i = 0; e->slots != NULL && i < e->params.n_seqs_max; i++) {
        struct slot *slot = &e->slots[i];
        tail_close(e, slot);
        mem_free(slot->appended);
        mem_free(slot->cos_sin);
        mem_free(slot->sealed);
        mem_free(slot->samples);
    }
    collapse_close(e);
    mem_free(e->slots);
    mem_free(e->frequencies);
    mem_free(e->tap_rows);
    plan_close(e);
    mem_free(e);
    *engine = NULL;
}

uint64_t fathom_engine_token_bytes(const fathom_engine *engine)
{
    return (uint64_t)engine->params.n_layers * engine->params.n_kv_heads *
           (engine->k_row_bytes + engine->v_row_bytes);
}
