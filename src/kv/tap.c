// The tap: a copy of what callers give to the engine, rotated as the cache holds it.

#include "src/base/mem.h"
#include "src/base/status.h"
#include "src/kv/engine.h"

fathom_status fathom_engine_tap(fathom_engine *engine, fathom_tap_fn tap, void *user)
{
    if (engine == NULL) return status_set(FATHOM_EINVAL, "fathom_engine_tap: NULL argument");
    const struct fathom_engine_params *p = &engine->params;
    const uint32_t d = p->d_k > p->d_v ? p->d_k : p->d_v;
    if (tap != NULL && engine->tap_rows == NULL)
        FATHOM_TRY(mem_new((size_t)p->n_step_max * p->n_heads, d * sizeof *engine->tap_rows,
                           "rows to show", &engine->tap_rows));
    engine->tap = tap;
    engine->tap_user = user;
    return FATHOM_OK;
}

fathom_status tap_show(fathom_engine *engine, struct fathom_seq seq, const struct slot *slot,
                       enum fathom_tap_rows kind, uint32_t layer, const float *x)
{
    const struct fathom_engine_params *p = &engine->params;
    const uint32_t n_heads = kind == FATHOM_TAP_QUERIES ? p->n_heads : p->n_kv_heads;
    const size_t n_values = (size_t)n_heads * (kind == FATHOM_TAP_VALUES ? p->d_v : p->d_k);
    float *rows = engine->tap_rows;
    if (engine->tap == NULL) return FATHOM_OK;
    FATHOM_TRY(engine->device->ops->download(engine->device, rows, x,
                                             slot->step_tokens * n_values * sizeof *rows));
    if (engine->frequencies != NULL && kind != FATHOM_TAP_VALUES)
        for (uint32_t t = 0; t < slot->step_tokens; t++)
            engine->device->kernels->rope(rows + t * n_values,
                                          slot->cos_sin + (size_t)t * p->rope.n_rot, n_heads,
                                          p->d_k, p->rope.n_rot, p->rope.pairing);
    const struct fathom_tap_args args = {
        .seq = seq,
        .layer = layer,
        .first_token = slot->n_tokens,
        .n_tokens = slot->step_tokens,
        .kind = (int32_t)kind,
        .rows = rows,
    };
    engine->tap(&args, engine->tap_user);
    return FATHOM_OK;
}
