// The engine's parameters: defaults, and whether they hold.

#include "src/kv/engine.h"

#include <math.h>
#include <string.h>

#include "src/base/status.h"

void fathom_kv_params_init(struct fathom_kv_params *kv)
{
    memset(kv, 0, sizeof *kv);
    kv->stage2_bits = 4;
    kv->index_q8 = true;
    kv->n_sink = 64;
    kv->n_window = 512;
    kv->n_segment = 1024;
    kv->n_merged = 8192;
    kv->budget_share = 0.02f;
    kv->candidates = 2.0f;
}

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
    fathom_kv_params_init(&params->kv);
}

static fathom_status check_range(const char *field, uint32_t value, uint32_t least, uint32_t most)
{
    if (value >= least && value <= most) return FATHOM_OK;
    return status_set(FATHOM_EINVAL, "%s=%u: must be %u to %u", field, value, least, most);
}

static fathom_status check_share(const char *field, float value, float most)
{
    if (value >= 0.0f && value <= most) return FATHOM_OK;
    return status_set(FATHOM_EINVAL, "%s=%g: must be 0 to %.0f", field, (double)value,
                      (double)most);
}

static fathom_status check_collapsed(const struct fathom_engine_params *p)
{
    if (p->rope.pairing == FATHOM_ROPE_NONE)
        return status_set(FATHOM_EINVAL,
                          "kv.positions (--kv-positions collapsed): needs keys that the library "
                          "rotates, and rope.pairing is NONE");
    if (p->kv.mode != FATHOM_KV_STREAM && p->kv.mode != FATHOM_KV_SPARSE)
        return status_set(FATHOM_EINVAL,
                          "kv.positions (--kv-positions collapsed): only sealed keys collapse: "
                          "choose kv.mode (--kv-mode) stream or sparse");
    if (p->kv.n_sink > p->kv.n_window + 2 * p->kv.n_segment)
        return status_set(FATHOM_EINVAL,
                          "kv.n_sink (--kv-sink)=%u: with collapsed positions at most kv.n_window "
                          "(--kv-window) + 2 * kv.n_segment (--kv-segment) = %u",
                          p->kv.n_sink, p->kv.n_window + 2 * p->kv.n_segment);
    return FATHOM_OK;
}

static fathom_status check_kv(const struct fathom_engine_params *p)
{
    const struct fathom_kv_params *kv = &p->kv;
    FATHOM_TRY(check_range("kv.mode", (uint32_t)kv->mode, FATHOM_KV_AUTO, FATHOM_KV_SPARSE));
    FATHOM_TRY(check_range("kv.prefill", (uint32_t)kv->prefill, 0, FATHOM_PREFILL_SPARSE));
    FATHOM_TRY(check_range("kv.selector", (uint32_t)kv->selector, 0, FATHOM_SELECTOR_FLAT));
    FATHOM_TRY(check_range("kv.rank_by", (uint32_t)kv->rank_by, 0, FATHOM_RANK_BOX));
    if (kv->codec != FATHOM_CODEC_PLAIN && kv->codec != FATHOM_CODEC_Q8 &&
        kv->codec != FATHOM_CODEC_Q4 && kv->codec != FATHOM_CODEC_Q2)
        return status_set(FATHOM_EINVAL, "kv.codec=%d: must be 0, 8, 4 or 2", (int)kv->codec);
    if (kv->stage2_bits != 0 && kv->stage2_bits != 4 && kv->stage2_bits != 8)
        return status_set(FATHOM_EINVAL, "kv.stage2_bits=%d: must be 0, 4 or 8",
                          (int)kv->stage2_bits);
    FATHOM_TRY(check_range("kv.positions", (uint32_t)kv->positions, 0, FATHOM_POSITIONS_COLLAPSED));
    FATHOM_TRY(check_range("kv.n_segment", kv->n_segment, 16, 32768));
    FATHOM_TRY(check_range("kv.n_merged", kv->n_merged, 32, 65536));
    if (kv->n_merged % kv->n_segment != 0 || kv->n_merged == kv->n_segment)
        return status_set(FATHOM_EINVAL,
                          "kv.n_merged=%u: must be twice kv.n_segment=%u or another multiple",
                          kv->n_merged, kv->n_segment);
    FATHOM_TRY(check_range("kv.n_sink", kv->n_sink, 0, 1u << 20));
    FATHOM_TRY(check_range("kv.n_window", kv->n_window, 0, 1u << 24));
    if (kv->positions == FATHOM_POSITIONS_COLLAPSED) FATHOM_TRY(check_collapsed(p));
    FATHOM_TRY(check_share("kv.budget_share", kv->budget_share, 1.0f));
    FATHOM_TRY(check_share("kv.candidates", kv->candidates, 1e6f));
    FATHOM_TRY(check_share("kv.threshold", kv->threshold, 1.0f));
    if (kv->threshold_auto && kv->threshold > 0.0f)
        return status_set(FATHOM_EINVAL, "kv.threshold=%g with kv.threshold_auto: choose one",
                          (double)kv->threshold);
    FATHOM_TRY(check_share("kv.coverage", kv->coverage, 1.0f));
    FATHOM_TRY(check_share("kv.verify_share", kv->verify_share, 1.0f));
    if (kv->disk_deadline_us > 0 && !kv->estimate)
        return status_set(
            FATHOM_EINVAL,
            "kv.disk_deadline_us (--kv-deadline) needs kv.estimate (--kv-estimate on), "
            "which stands in for what comes too late");
    if (kv->disk_bytes > 0 && kv->disk_path == NULL)
        return status_set(FATHOM_EINVAL, "kv.disk_bytes needs kv.disk_path, a directory");
    if ((kv->mode == FATHOM_KV_STREAM || kv->mode == FATHOM_KV_SPARSE) && p->n_window != 0)
        return status_set(FATHOM_EUNSUPPORTED,
                          "kv.mode (--kv-mode): a model with sliding-window attention "
                          "(n_window=%u) keeps its rows dense: choose dense or auto",
                          p->n_window);
    return FATHOM_OK;
}

fathom_status params_check(const struct fathom_engine_params *p)
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
    if (p->kv_type != FATHOM_TYPE_F16 && p->kv_type != FATHOM_TYPE_BF16 &&
        p->kv_type != FATHOM_TYPE_F32)
        return status_set(FATHOM_EINVAL, "kv_type=%d: must be F16, BF16 or F32", (int)p->kv_type);
    if (!isfinite(p->scale) || p->scale < 0.0f)
        return status_set(FATHOM_EINVAL, "scale=%g: must be above 0, or 0 for 1/sqrt(d_k)",
                          (double)p->scale);
    return check_kv(p);
}
