// One step of attention over a sequence with sealed segments: the tail, what is picked (or all) of
// the sealed rows, the estimate of the rest, merged by their log-sum-exp.

#include "src/kv/sealed.h"

#include <math.h>
#include <string.h>

#include "src/base/clock.h"
#include "src/base/status.h"

fathom_status attend_tail(fathom_engine *engine, struct slot *slot, uint32_t layer, const float *q,
                          float *out, float *lse)
{
    const struct fathom_engine_params *p = &engine->params;
    const uint32_t n_skip = collapse_sinks(engine, slot);
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
        .dev_k = tail_keys(engine, slot, layer * p->n_kv_heads) + n_skip * engine->k_row_bytes,
        .k_head_stride_bytes = engine->n_tail_max * engine->k_row_bytes,
        .k_row_bytes = engine->k_row_bytes,
        .dev_v = tail_values(engine, slot, layer * p->n_kv_heads) + n_skip * engine->v_row_bytes,
        .v_head_stride_bytes = engine->n_tail_max * engine->v_row_bytes,
        .v_row_bytes = engine->v_row_bytes,
        .n_keys = tail_row(engine, slot, slot->n_tokens) + slot->step_tokens - n_skip,
        .n_window = p->n_window,
        .scale = p->scale,
        .dev_out = out,
        .dev_lse = lse,
    };
    return engine->device->ops->attend_dense(engine->device, &args);
}

// ---- Queries as the host's kernels need them ----------------------------------------------------

struct rotate_share {
    const fathom_engine *engine;
    const struct slot *slot;
};

static void rotate_range(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct rotate_share *s = arg;
    const struct fathom_engine_params *p = &s->engine->params;
    (void)thread;
    for (size_t t = begin; t < end; t++) {
        const float *far = s->engine->far_cos_sin;
        const float *cos_sin = far != NULL ? far : s->slot->cos_sin + t * p->rope.n_rot;
        s->engine->device->kernels->rope(s->engine->rotated + t * p->n_heads * p->d_k, cos_sin,
                                         p->n_heads, p->d_k, p->rope.n_rot, p->rope.pairing);
    }
}

// As sealed rows are asked: engine->rotated [step_tokens, n_heads, d_k]; the last token's become a
// sample.
static fathom_status rotate_queries(fathom_engine *engine, struct slot *slot, uint32_t layer,
                                    const float *q)
{
    enum { GRAIN = 16 };
    const size_t n_values = (size_t)engine->params.n_heads * engine->params.d_k;
    struct rotate_share share = {engine, slot};
    FATHOM_TRY(engine->device->ops->download(engine->device, engine->rotated, q,
                                             slot->step_tokens * n_values * sizeof(float)));
    if (engine->frequencies != NULL)
        pool_for(engine->device->pool, slot->step_tokens, GRAIN, rotate_range, &share);
    memcpy(slot->samples + ((size_t)layer * SAMPLES + slot->n_samples % SAMPLES) * n_values,
           engine->rotated + (slot->step_tokens - 1) * n_values, n_values * sizeof(float));
    slot->attended = true;
    return FATHOM_OK;
}

// ---- Picking ------------------------------------------------------------------------------------

void attend_views(const fathom_engine *engine, const struct slot *slot, uint32_t layer)
{
    const struct fathom_engine_params *p = &engine->params;
    const struct segments *segments = &engine->segments;
    for (uint32_t kv_head = 0; kv_head < p->n_kv_heads; kv_head++)
        for (uint32_t i = 0; i < slot->n_sealed; i++) {
            const struct sealed *sealed = &slot->sealed[i];
            const struct segment_class *class = segment_class(segments, sealed->segment);
            const uint32_t head = layer * p->n_kv_heads + kv_head;
            const float *range = segment_k_range(segments, sealed->segment, head);
            engine->views[(size_t)kv_head * slot->n_sealed + i] = (struct index_view){
                .index = segment_index(segments, sealed->segment, head),
                .n_rows = sealed->segment->n_rows,
                .keys = segment_rows(segments, sealed->segment, head),
                .keys_row_bytes = class->k_row_bytes + class->v_row_bytes,
                .k_min = range,
                .k_step = range == NULL ? NULL : range + p->d_k,
                .n_visible = sealed->end - sealed->begin,
            };
        }
}

uint64_t attend_budget(const fathom_engine *engine, uint32_t head, uint64_t n_sealed_rows)
{
    const struct budget *budget = &engine->head_budgets[head];
    if (budget->tokens > 0) return budget->tokens;
    if (budget->share >= 1.0f) return UINT64_MAX;
    return (uint64_t)ceil((double)budget->share * (double)n_sealed_rows);
}

uint64_t attend_sealed_rows(const struct slot *slot)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < slot->n_sealed; i++)
        n += slot->sealed[i].end - slot->sealed[i].begin;
    return n;
}

// ---- Coverage -----------------------------------------------------------------------------------

// Of one query head: the share of the mass that lse holds, when `rest` is the log of what it lacks.
static double share_of(float lse, float rest)
{
    if (rest == -INFINITY) return 1.0;
    return 1.0 / (1.0 + exp((double)rest - (double)lse));
}

// Raises the budgets of KV heads that miss the asked coverage; false when none does.
static bool raise_budgets(fathom_engine *engine, const float *lse)
{
    const struct fathom_engine_params *p = &engine->params;
    bool raised = false;
    for (uint32_t kv_head = 0; kv_head < p->n_kv_heads; kv_head++) {
        const struct selection *s = &engine->selections[kv_head];
        double least = 1.0;
        for (uint32_t g = 0; g < engine->group; g++) {
            const float *rest = p->kv.coverage_bound ? s->rest_bound : s->rest_estimate;
            const double asked = share_of(lse[kv_head * engine->group + g], rest[g]);
            if (asked < least) least = asked;
        }
        if (least >= (double)p->kv.coverage || s->rest_bound[0] == -INFINITY) continue;
        const uint64_t twice = 2 * (s->n_rows > 0 ? s->n_rows : 1);
        engine->budgets[kv_head] = twice > engine->n_rows_all ? UINT64_MAX : twice;
        raised = true;
    }
    return raised;
}

// ---- Blocks of tokens ---------------------------------------------------------------------------

static void account(fathom_engine *engine, uint32_t layer, uint64_t n_sealed_rows)
{
    struct fathom_kv_stats *stats = &engine->stats;
    const struct fathom_engine_params *p = &engine->params;
    for (uint32_t kv_head = 0; kv_head < p->n_kv_heads; kv_head++) {
        const struct selection *s = &engine->selections[kv_head];
        struct fathom_head_stats *head = &engine->head_stats[layer * p->n_kv_heads + kv_head];
        head->picked_keys += s->n_rows;
        head->sealed_keys += n_sealed_rows;
        stats->scanned_keys += s->scanned_keys;
        stats->scanned_bytes += s->scanned_bytes;
        stats->read_bytes += s->scanned_bytes;
    }
    stats->n_steps_picked++;
}

// What is not picked is summed up when somebody asks, and now and then for the statistics.
static bool coverage_is_due(const fathom_engine *engine, const struct slot *slot)
{
    enum { EVERY_TOKENS = 16 };
    const struct fathom_kv_params *kv = &engine->params.kv;
    return kv->coverage > 0.0f || kv->verify_share > 0.0f || slot->n_tokens % EVERY_TOKENS == 0;
}

static void account_coverage(fathom_engine *engine, uint32_t layer, const float *lse)
{
    const uint32_t group = engine->group, n_kv_heads = engine->params.n_kv_heads;
    for (uint32_t kv_head = 0; kv_head < n_kv_heads; kv_head++) {
        const struct selection *s = &engine->selections[kv_head];
        struct fathom_head_stats *head = &engine->head_stats[layer * n_kv_heads + kv_head];
        head->n_covered++;
        for (uint32_t g = 0; g < group; g++) {
            const float own = lse[kv_head * group + g];
            head->coverage_bound += share_of(own, s->rest_bound[g]) / group;
            head->coverage_estimate += share_of(own, s->rest_estimate[g]) / group;
        }
    }
}

// Begins the search for tokens first .. first + n - 1 of the step together, and sets how many rows
// each head is to pick.
static void begin_search(fathom_engine *engine, const struct slot *slot, uint32_t layer,
                         uint32_t first, uint32_t n, bool covers)
{
    const struct fathom_engine_params *p = &engine->params;
    const uint64_t n_rows = attend_sealed_rows(slot);
    const bool calibrated = slot->step_tokens == 1 && slot->calibration.threshold > 0.0f;
    struct search_args args = {
        .q = engine->rotated + (size_t)first * p->n_heads * p->d_k,
        .n_queries = n,
        .views = engine->views,
        .n_segments = slot->n_sealed,
        .skip_rest = !covers,
        .threshold = p->kv.threshold,
    };
    if (calibrated) {
        args.threshold = slot->calibration.threshold;
        args.floor_share = 1.0f / CALIBRATE_FLOOR_PARTS;
    }
    for (uint32_t h = 0; h < p->n_kv_heads; h++) {
        const uint64_t budget = attend_budget(engine, layer * p->n_kv_heads + h, n_rows);
        engine->budgets[h] = calibrated ? calibrate_ceiling(budget, n_rows) : budget;
    }
    engine->n_rows_all = n_rows;
    attend_views(engine, slot, layer);
    engine->selector_ops->begin(engine->search, &args);
}

// Of decode steps, as the counts are.
static void add_time(const struct slot *slot, double *sum_s, uint64_t *from_ns)
{
    if (slot->step_tokens > 1) return;
    const uint64_t now_ns = clock_ns();
    *sum_s += (double)(now_ns - *from_ns) * 1e-9;
    *from_ns = now_ns;
}

// Picks for tokens first .. first + n - 1 of the step together and attends to what is picked.
static fathom_status attend_picked(fathom_engine *engine, struct slot *slot, uint32_t layer,
                                   uint32_t first, uint32_t n, struct sealed_parts *parts)
{
    const struct fathom_engine_params *p = &engine->params;
    const bool decode = slot->step_tokens == 1;
    const bool covers = decode && coverage_is_due(engine, slot);
    uint64_t from_ns = clock_ns();
    begin_search(engine, slot, layer, first, n, covers);
    for (bool more = true, again = false; more; again = true) {
        FATHOM_TRY(pick_and_read(engine, slot, layer));
        add_time(slot, &engine->stats.select_s, &from_ns);
        FATHOM_TRY(sealed_attend_picked(engine, slot, layer, first, n, again, parts));
        add_time(slot, &engine->stats.attend_s, &from_ns);
        if (!decode) return FATHOM_OK;
        engine->stats.n_rounds++;
        more = p->kv.coverage > 0.0f && engine->fetch.n_left == 0 &&
               raise_budgets(engine, sealed_lse(engine, parts));
    }
    account(engine, layer, engine->n_rows_all);
    if (covers) account_coverage(engine, layer, sealed_lse(engine, parts));
    if (p->kv.estimate) {
        const struct sealed_part part = sealed_add_part(engine, parts);
        engine->selector_ops->estimate(engine->search, part.o, part.lse);
    }
    return FATHOM_OK;
}

static fathom_status attend_sealed(fathom_engine *engine, struct slot *slot, uint32_t layer,
                                   bool all, struct sealed_parts *parts)
{
    const uint32_t n = slot->step_tokens;
    // A step that is not full is a prompt's end or a question, and its tokens may each ask for
    // something else: sharing picks there costs answers that nothing later makes good.
    const uint32_t n_block = n == engine->params.n_step_max ? engine->n_block : 1;
    if (all) return sealed_attend_all(engine, slot, layer, parts);
    for (uint32_t t = 0; t < n; t += n_block)
        FATHOM_TRY(attend_picked(engine, slot, layer, t, n - t < n_block ? n - t : n_block, parts));
    return FATHOM_OK;
}

static fathom_status attend_parts(fathom_engine *engine, struct slot *slot, uint32_t layer,
                                  const float *q, bool all, struct sealed_parts *parts)
{
    *parts = sealed_parts_begin(engine, slot->step_tokens);
    const struct sealed_part tail = sealed_add_part(engine, parts);
    FATHOM_TRY(attend_tail(engine, slot, layer, q, tail.o, tail.lse));
    collapse_attend_sinks(engine, slot, layer, tail.o, tail.lse);
    return attend_sealed(engine, slot, layer, all, parts);
}

// ---- Verification -------------------------------------------------------------------------------

// Every so many steps, in a fixed pattern, all layers of a step.
static bool verify_is_due(const fathom_engine *engine, const struct slot *slot)
{
    const double share = (double)engine->params.kv.verify_share;
    return floor((slot->n_tokens + 1) * share) > floor(slot->n_tokens * share);
}

// Compares exact attention with what was computed: out, lse of what was attended.
static void compare(fathom_engine *engine, uint32_t layer, const float *out, const float *lse,
                    const float *exact, const float *exact_lse)
{
    const struct fathom_engine_params *p = &engine->params;
    struct fathom_head_stats *heads = &engine->head_stats[layer * p->n_kv_heads];
    for (uint32_t h = 0; h < p->n_kv_heads; h++)
        heads[h].n_verified++;
    for (uint32_t h = 0; h < p->n_heads; h++) {
        struct fathom_head_stats *head = &heads[h / engine->group];
        double off = 0.0, norm = 0.0;
        for (uint32_t c = 0; c < p->d_v; c++) {
            const double want = (double)exact[h * p->d_v + c];
            const double got = (double)out[h * p->d_v + c];
            off += (got - want) * (got - want);
            norm += want * want;
        }
        head->verified_error += (norm > 0.0 ? sqrt(off / norm) : 0.0) / engine->group;
        head->verified_coverage += exp((double)lse[h] - (double)exact_lse[h]) / engine->group;
    }
}

static fathom_status verify(fathom_engine *engine, struct slot *slot, uint32_t layer,
                            const float *q, const float *merged, const float *attended_lse)
{
    struct sealed_parts parts;
    const struct fathom_engine_params *p = &engine->params;
    const size_t n_values = (size_t)p->n_heads * p->d_v;
    memcpy(engine->verified, merged, n_values * sizeof(float));
    memcpy(engine->verified + n_values, attended_lse, p->n_heads * sizeof(float));
    FATHOM_TRY(attend_parts(engine, slot, layer, q, true, &parts));
    const float *exact_lse = sealed_lse(engine, &parts);
    const float *exact = sealed_merge(engine, &parts);
    compare(engine, layer, engine->verified, engine->verified + n_values, exact, exact_lse);
    return FATHOM_OK;
}

static void account_step(fathom_engine *engine, const struct slot *slot, bool picks)
{
    struct fathom_kv_stats *stats = &engine->stats;
    const uint64_t n_kv_heads = engine->params.n_kv_heads;
    const uint64_t n_tail = (tail_row(engine, slot, slot->n_tokens) + 1) * n_kv_heads;
    stats->n_steps++;
    stats->tail_keys += n_tail;
    stats->read_bytes += n_tail * (engine->k_row_bytes + engine->v_row_bytes);
    for (uint32_t i = 0; !picks && i < slot->n_sealed; i++) {
        const struct sealed *sealed = &slot->sealed[i];
        stats->read_bytes += (sealed->end - sealed->begin) * n_kv_heads *
                             segment_row_bytes(&engine->segments, sealed->segment);
    }
}

fathom_status attend_tiered(fathom_engine *engine, struct slot *slot, uint32_t layer,
                            const float *q, float *out)
{
    const struct fathom_engine_params *p = &engine->params;
    const bool decode = slot->step_tokens == 1;
    const bool picks = engine->picks && !engine->exact && layer >= p->kv.n_dense_layers &&
                       (decode || p->kv.prefill == FATHOM_PREFILL_SPARSE);
    struct sealed_parts parts;
    FATHOM_TRY(rotate_queries(engine, slot, layer, q));
    if (decode) account_step(engine, slot, picks);
    if (slot->n_sealed == 0) return attend_tail(engine, slot, layer, q, out, NULL);
    FATHOM_TRY(attend_parts(engine, slot, layer, q, !picks, &parts));
    const float *lse = engine->params.kv.verify_share > 0.0f ? sealed_lse(engine, &parts) : NULL;
    const float *merged = sealed_merge(engine, &parts);
    FATHOM_TRY(
        engine->device->ops->upload(engine->device, out, merged,
                                    (size_t)slot->step_tokens * p->n_heads * p->d_v * sizeof *out));
    if (decode && picks && lse != NULL && verify_is_due(engine, slot))
        return verify(engine, slot, layer, q, merged, lse);
    return FATHOM_OK;
}
