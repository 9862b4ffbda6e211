// How many rows each KV head may pick: as the engine was opened, and as it is told later.

#include "src/kv/engine.h"

#include "src/base/mem.h"
#include "src/base/status.h"

fathom_status budget_open(fathom_engine *engine)
{
    const struct fathom_kv_params *kv = &engine->params.kv;
    const struct budget all = {kv->budget_tokens, kv->budget_share};
    const uint32_t n_heads = engine->segments.n_heads;
    FATHOM_TRY(mem_new(n_heads, sizeof *engine->head_budgets, "budgets", &engine->head_budgets));
    for (uint32_t i = 0; i < n_heads; i++) {
        engine->head_budgets[i] = all;
        if (kv->head_budgets == NULL) continue;
        engine->head_budgets[i] = (struct budget){.tokens = kv->head_budgets[i]};
    }
    return FATHOM_OK;
}

// Numbers first .. end - 1 for number `at` of n, or for all of them.
static fathom_status find_range(const char *what, int32_t at, uint32_t n, uint32_t *first,
                                uint32_t *end)
{
    *first = at < 0 ? 0 : (uint32_t)at;
    *end = at < 0 ? n : *first + 1;
    if (at >= -1 && *end <= n) return FATHOM_OK;
    return status_set(FATHOM_EINVAL, "%s=%d: must be 0 to %u, or -1 for all", what, (int)at, n - 1);
}

fathom_status fathom_engine_set_budget(fathom_engine *engine, int32_t layer, int32_t kv_head,
                                       uint64_t tokens, float share)
{
    uint32_t layer_first, layer_end, head_first, head_end;
    if (engine == NULL) return status_set(FATHOM_EINVAL, "fathom_engine_set_budget: NULL argument");
    const struct fathom_engine_params *p = &engine->params;
    FATHOM_TRY(find_range("layer", layer, p->n_layers, &layer_first, &layer_end));
    FATHOM_TRY(find_range("kv_head", kv_head, p->n_kv_heads, &head_first, &head_end));
    if (tokens == 0 && !(share >= 0.0f && share <= 1.0f))
        return status_set(FATHOM_EINVAL, "share=%g: must be 0 to 1, with tokens=0", (double)share);
    if (!engine->picks)
        return status_set(FATHOM_EUNSUPPORTED,
                          "kv.mode=%d (--kv-mode) reads all rows: budgets are for sparse and auto",
                          (int)p->kv.mode);
    for (uint32_t i = layer_first; engine->tiered && i < layer_end; i++)
        for (uint32_t j = head_first; j < head_end; j++)
            engine->head_budgets[i * p->n_kv_heads + j] = (struct budget){tokens, share};
    // A threshold that was calibrated to other budgets is looked for again.
    for (uint32_t i = 0; i < p->n_seqs_max; i++)
        engine->slots[i].calibration.n_rows = 0;
    return FATHOM_OK;
}

fathom_status fathom_engine_set_exact(fathom_engine *engine, bool exact)
{
    if (engine == NULL) return status_set(FATHOM_EINVAL, "fathom_engine_set_exact: NULL argument");
    engine->exact = exact;
    return FATHOM_OK;
}
