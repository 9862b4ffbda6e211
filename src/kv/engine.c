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

void fathom_engine_params_init(struct fathom_engine_params *params)
{
    memset(params, 0, sizeof *params);
    params->struct_bytes = sizeof *params;
    params->n_step_max = 512;
    params->n_seqs_max = 1;
    params->kv_type = FATHOM_TYPE_F16;
    params->rope.base = 10000.0f;
    params->rope.factor = 1.0f;
    params->rope.attn_factor = 1.0f;
    params->rope.ext_factor = 1.0f;
    params->rope.beta_fast = 32.0f;
    params->rope.beta_slow = 1.0f;
    params->kv.stage2_bits = 4;
    params->kv.index_q8 = true;
    params->kv.n_sink = 64;
    params->kv.n_window = 512;
    params->kv.n_segment = 1024;
    params->kv.n_merged = 8192;
    params->kv.budget_share = 0.02f;
    params->kv.candidates = 4.0f;
}

static fathom_status check_range(const char *field, uint32_t value, uint32_t least, uint32_t most)
{
    if (value >= least && value <= most) return FATHOM_OK;
    return status_set(FATHOM_EINVAL, "%s=%u: must be %u to %u", field, value, least, most);
}

static fathom_status check_params(const struct fathom_engine_params *p)
{
    if (p->struct_bytes != sizeof *p)
        return status_set(FATHOM_EINVAL,
                          "engine params: struct_bytes=%u: call "
                          "fathom_engine_params_init first",
                          p->struct_bytes);
    FATHOM_TRY(check_range("n_layers", p->n_layers, 1, 4096));
    FATHOM_TRY(check_range("n_heads", p->n_heads, 1, 65536));
    FATHOM_TRY(check_range("n_kv_heads", p->n_kv_heads, 1, p->n_heads));
    FATHOM_TRY(check_range("d_k", p->d_k, 1, 256));
    FATHOM_TRY(check_range("d_v", p->d_v, 1, 256));
    FATHOM_TRY(check_range("n_tokens_max", p->n_tokens_max, 1, 1u << 28));
    FATHOM_TRY(check_range("n_step_max", p->n_step_max, 1, 1u << 20));
    FATHOM_TRY(check_range("n_seqs_max", p->n_seqs_max, 1, 65536));
    if (p->n_heads % p->n_kv_heads != 0)
        return status_set(FATHOM_EINVAL, "n_kv_heads=%u: must divide n_heads=%u", p->n_kv_heads,
                          p->n_heads);
    FATHOM_TRY(check_range("n_heads / n_kv_heads", p->n_heads / p->n_kv_heads, 1, 256));
    if (p->kv.mode != FATHOM_KV_AUTO && p->kv.mode != FATHOM_KV_DENSE)
        return status_set(FATHOM_EUNSUPPORTED, "kv.mode=%d: this version has dense only",
                          (int)p->kv.mode);
    if (p->kv_type != FATHOM_TYPE_F16 && p->kv_type != FATHOM_TYPE_BF16 &&
        p->kv_type != FATHOM_TYPE_F32)
        return status_set(FATHOM_EINVAL, "kv_type=%d: must be F16, BF16 or F32", (int)p->kv_type);
    if (!isfinite(p->scale) || p->scale < 0.0f)
        return status_set(FATHOM_EINVAL, "scale=%g: must be above 0, or 0 for 1/sqrt(d_k)",
                          (double)p->scale);
    return FATHOM_OK;
}

static fathom_status size_slot(fathom_engine *engine)
{
    const struct fathom_engine_params *p = &engine->params;
    engine->k_row_bytes = dtype_row_bytes(p->kv_type, p->d_k);
    engine->v_row_bytes = dtype_row_bytes(p->kv_type, p->d_v);
    const size_t n_strips = (size_t)p->n_layers * p->n_kv_heads;
    size_t n_rows;
    if (!size_mul(n_strips, p->n_tokens_max, &n_rows) ||
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
    FATHOM_TRY(mem_new(n_values, sizeof *engine->cos_sin, "rope table", &engine->cos_sin));
    engine->table_bytes = n_values * sizeof *engine->cos_sin;
    rope_frequencies(rope, engine->frequencies, &engine->magnitude);
    rope->divisors = NULL; // folded into the frequencies
    return FATHOM_OK;
}

fathom_status fathom_engine_open(fathom_device *device, const struct fathom_engine_params *params,
                                 fathom_engine **engine)
{
    fathom_engine *e = NULL;
    fathom_status status;
    if (device == NULL || params == NULL || engine == NULL)
        return status_set(FATHOM_EINVAL, "fathom_engine_open: NULL argument");
    FATHOM_TRY(check_params(params));
    FATHOM_TRY(mem_new(1, sizeof *e, "engine", &e));
    e->device = device;
    e->params = *params;
    if (e->params.scale == 0.0f) e->params.scale = 1.0f / sqrtf((float)e->params.d_k);
    if (e->params.rope.n_rot == 0) e->params.rope.n_rot = e->params.d_k & ~1u;
    FATHOM_CHECK(rope_check(&e->params.rope, e->params.d_k), out);
    FATHOM_CHECK(size_slot(e), out);
    FATHOM_CHECK(mem_new(e->params.n_seqs_max, sizeof *e->slots, "sequence slots", &e->slots), out);
    for (uint32_t i = 0; i < e->params.n_seqs_max; i++)
        FATHOM_CHECK(mem_new(e->params.n_layers, 1, "sequence slot", &e->slots[i].appended), out);
    FATHOM_CHECK(open_rope(e), out);
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
        mem_free(e->slots[i].appended);
        e->device->ops->release(e->device, e->slots[i].dev_rows, e->slot_bytes);
        e->device->ops->release(e->device, e->slots[i].dev_cos_sin, e->table_bytes);
    }
    mem_free(e->slots);
    mem_free(e->frequencies);
    mem_free(e->cos_sin);
    mem_free(e);
    *engine = NULL;
}

uint64_t fathom_engine_token_bytes(const fathom_engine *engine)
{
    return (uint64_t)engine->params.n_layers * engine->params.n_kv_heads *
           (engine->k_row_bytes + engine->v_row_bytes);
}
