// The plan: whether KV is dense or tiered, and what each tier takes; opens the tiers.

#include "src/kv/build.h"
#include "src/kv/sealed.h"
#include "src/kv/sizes.h"
#include "src/kv/wire.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "src/base/dtype.h"
#include "src/base/mem.h"
#include "src/base/status.h"

// ---- Sizes --------------------------------------------------------------------------------------

static uint64_t tail_token_bytes(const fathom_engine *engine)
{
    return (uint64_t)engine->params.n_layers * engine->params.n_kv_heads *
           (engine->k_row_bytes + engine->v_row_bytes);
}

static void size_class(fathom_engine *engine, enum segment_size size, uint32_t n_rows,
                       uint32_t bits)
{
    const struct fathom_engine_params *p = &engine->params;
    struct segment_class *class = &engine->segments.classes[size];
    class->n_rows_max = n_rows;
    class->format = (struct kv_format){bits, p->kv_type, p->d_k, p->d_v};
    class->k_row_bytes = kv_k_row_bytes(&class->format);
    class->v_row_bytes = kv_v_row_bytes(&class->format);
    class->head_bytes =
        size_round(n_rows * (class->k_row_bytes + class->v_row_bytes), STORE_PAGE_BYTES);
    class->index_bytes =
        size_round(engine->selector_ops->index_bytes(engine->selector, n_rows), MEM_ALIGN_BYTES);
    class->index_head_bytes =
        class->index_bytes +
        (bits == 0 ? 0 : size_round((size_t)2 * p->d_k * sizeof(float), MEM_ALIGN_BYTES));
}

static fathom_status open_selector(fathom_engine *engine, const struct sizes *sizes)
{
    const struct fathom_engine_params *p = &engine->params;
    const struct fathom_kv_params *kv = &p->kv;
    const struct selector_params params = {
        .kind = kv->selector,
        .d_k = p->d_k,
        .d_v = p->d_v,
        .n_kv_heads = p->n_kv_heads,
        .group = engine->group,
        .n_queries_max = engine->n_block,
        .scale = p->scale,
        .unit_tokens = kv->n_unit,
        .index_q8 = kv->index_q8,
        .rank_by = kv->rank_by,
        .stage2_bits = (uint32_t)kv->stage2_bits,
        .stage2_in_rows = kv->stage2_bits == kv->codec && kv->disk_bytes == 0,
        .estimate = kv->estimate,
        .reduce_sum = kv->reduce_sum,
        .candidates = kv->candidates,
        .n_segments_max = engine->n_sealed_max,
        .segment_tokens_max = kv->n_merged,
        .n_rows_max = sizes->n_rows_max,
        .kernels = engine->device->kernels,
        .pool = engine->device->pool,
    };
    FATHOM_TRY(engine->selector_ops->open(&params, &engine->selector));
    return engine->selector_ops->search_open(engine->selector, &engine->search);
}

// Each token's own queries take part in a block's search, so few enough that what they pick
// together does for all: of needle-tiny's 16,384 tokens, read with a budget of 2 %, blocks of 64,
// 32 and 16 left divergences of 0.009, 0.005 and 0.002 from dense reading, and took as long but for
// the 16.
static uint32_t count_block(const fathom_engine *engine)
{
    enum { BLOCK_TOKENS = 32, SEARCH_HEADS_MAX = 256 };
    const struct fathom_engine_params *p = &engine->params;
    uint32_t n = SEARCH_HEADS_MAX / engine->group;
    if (!engine->picks || p->kv.prefill != FATHOM_PREFILL_SPARSE) return 1;
    if (n > BLOCK_TOKENS) n = BLOCK_TOKENS;
    return n < p->n_step_max ? n : p->n_step_max;
}

// ---- Opening ------------------------------------------------------------------------------------

static fathom_status open_store(fathom_engine *engine, const struct sizes *sizes)
{
    const struct fathom_kv_params *kv = &engine->params.kv;
    struct segments *segments = &engine->segments;
    if (kv->disk_bytes == 0) return FATHOM_OK;
    FATHOM_TRY(fetch_open(&engine->fetch, sizes->fetch_bytes, sizes->n_wants_max));
    FATHOM_TRY(mem_new((size_t)segments->n_all * segments->n_heads, sizeof *segments->extents,
                       "extents", &segments->extents));
    const struct store_params params = {
        .dir = kv->disk_path,
        .bytes_max = kv->disk_bytes,
        .day_bytes_max = kv->disk_day_bytes,
        .buffer = engine->fetch.buffer,
        .buffer_bytes = (size_t)engine->fetch.n_pages * STORE_PAGE_BYTES,
        .log = engine->device->log,
    };
    segments->store_ops = wire_store_ops();
    return segments->store_ops->open(&params, &segments->store);
}

static fathom_status open_segments(fathom_engine *engine, const struct sizes *sizes)
{
    struct segments *segments = &engine->segments;
    const uint32_t n_places[SEGMENT_SIZES] = {sizes->n_small, sizes->n_merged};
    const uint32_t n_in_ram[SEGMENT_SIZES] = {sizes->n_small, sizes->n_merged_ram};
    for (int i = 0; i < SEGMENT_SIZES; i++) {
        struct segment_class *class = &segments->classes[i];
        FATHOM_TRY(slab_open(&class->rows, segments->n_heads * class->head_bytes, n_in_ram[i],
                             "sealed rows"));
        FATHOM_TRY(slab_open(&class->indexes, segments->n_heads * class->index_head_bytes,
                             n_places[i], "index"));
    }
    segments->n_all = sizes->n_small + sizes->n_merged;
    return mem_new(segments->n_all, sizeof *segments->all, "segments", &segments->all);
}

static fathom_status open_workers(fathom_engine *engine)
{
    const struct fathom_engine_params *p = &engine->params;
    const uint32_t n_threads = pool_count(engine->device->pool);
    FATHOM_TRY(mem_new(n_threads, sizeof *engine->workers, "workers", &engine->workers));
    for (uint32_t i = 0; i < n_threads; i++) {
        struct worker *w = &engine->workers[i];
        FATHOM_TRY(mem_new(1, build_scratch_bytes(engine), "scratch of sealing", &w->build));
        FATHOM_TRY(mem_new(1, ATTEND_SCRATCH_BYTES, "scratch of attention", &w->attend));
        FATHOM_TRY(mem_new(RUNS_MAX, sizeof *w->runs, "runs", &w->runs));
    }
    FATHOM_TRY(mem_new((size_t)p->n_kv_heads * engine->n_sealed_max, sizeof *engine->views, "views",
                       &engine->views));
    FATHOM_TRY(
        mem_new(p->n_kv_heads, sizeof *engine->selections, "selections", &engine->selections));
    FATHOM_TRY(mem_new(p->n_kv_heads, sizeof *engine->picked, "selections", &engine->picked));
    FATHOM_TRY(mem_new(p->n_kv_heads, sizeof *engine->budgets, "budgets", &engine->budgets));
    FATHOM_TRY(mem_new((size_t)p->n_kv_heads * CALIBRATE_GRID, sizeof *engine->surveyed, "survey",
                       &engine->surveyed));
    FATHOM_TRY(budget_open(engine));
    FATHOM_TRY(mem_new(engine->segments.n_heads, sizeof *engine->head_stats, "statistics of heads",
                       &engine->head_stats));
    FATHOM_TRY(mem_new((size_t)p->n_step_max * p->n_heads, p->d_k * sizeof(float),
                       "rotated queries", &engine->rotated));
    FATHOM_TRY(
        mem_new(p->n_heads, (p->d_v + 1) * sizeof(float), "output to verify", &engine->verified));
    return mem_new(engine->n_part_values, sizeof(float), "partials", &engine->parts);
}

// Tokens that the hot arena holds; the tail of a tiered engine must fit into it.
static fathom_status size_tail(fathom_engine *engine)
{
    const struct fathom_engine_params *p = &engine->params;
    const struct fathom_kv_params *kv = &p->kv;
    // Rows that leave the tail are attended to by the host, beside it.
    const bool can_seal = engine->device->ops->free_bytes == NULL;
    const uint64_t device_bytes =
        kv->device_bytes > 0 ? kv->device_bytes : wire_memory_bytes() / 5 * 3;
    const uint64_t n_fit = device_bytes / p->n_seqs_max / tail_token_bytes(engine);
    const bool fits = n_fit >= p->n_tokens_max;
    engine->tiered = kv->mode != FATHOM_KV_DENSE && !(kv->mode == FATHOM_KV_AUTO && fits) &&
                     !(kv->mode == FATHOM_KV_AUTO && (p->n_window != 0 || !can_seal));
    if (engine->tiered && !can_seal)
        return status_set(FATHOM_EUNSUPPORTED,
                          "%s keeps all keys and values in its own memory: kv.mode (--kv-mode) "
                          "stream and sparse are for device \"cpu\"",
                          engine->device->text);
    engine->picks = kv->mode == FATHOM_KV_SPARSE || kv->mode == FATHOM_KV_AUTO;
    engine->n_tail_max = p->n_tokens_max;
    // While a segment is sealed its rows stay, and two steps come in.
    const uint64_t n_least = (uint64_t)kv->n_sink + kv->n_window + 2 * (uint64_t)kv->n_segment +
                             2 * (uint64_t)p->n_step_max;
    const uint64_t n_all = p->n_tokens_max;
    const uint64_t n_needed = engine->tiered && n_least < n_all ? n_least : n_all;
    const uint64_t n_mib =
        size_round(n_needed * p->n_seqs_max * tail_token_bytes(engine), 1 << 20) >> 20;
    if (kv->device_bytes > 0 && n_needed > n_fit && n_fit < p->n_tokens_max)
        return status_set(FATHOM_ENOMEM,
                          "kv.device_bytes (--kv-vram) of %s holds %llu tokens: %llu are "
                          "needed, in %llu MiB; raise it%s",
                          size_text(kv->device_bytes).text, (unsigned long long)n_fit,
                          (unsigned long long)n_needed, (unsigned long long)n_mib,
                          engine->tiered ? ", or make the window, segments or batch smaller"
                          : can_seal     ? ", or choose another kv.mode (--kv-mode)"
                                         : "");
    if (!engine->tiered) return FATHOM_OK;
    uint64_t n_tail = n_least;
    if (kv->mode == FATHOM_KV_AUTO) {
        n_tail = n_fit;
        engine->n_hot_max = (uint32_t)(n_fit - (n_least - kv->n_sink - kv->n_window));
    }
    if (n_tail < p->n_tokens_max) engine->n_tail_max = (uint32_t)n_tail;
    return FATHOM_OK;
}

static const char *selector_name(int32_t selector)
{
    static const char *const names[] = {"cluster", "chunk", "block", "flat"};
    return names[selector];
}

// How rows are picked, and how many.
static void write_picks(const struct fathom_kv_params *kv, char *text, size_t bytes)
{
    char budget[32], limit[32] = "", stage2[24] = "", coverage[40] = "";
    if (kv->budget_tokens > 0)
        snprintf(budget, sizeof budget, "%llu tokens", (unsigned long long)kv->budget_tokens);
    else
        snprintf(budget, sizeof budget, "%g %%", (double)kv->budget_share * 100.0);
    if (kv->threshold > 0)
        snprintf(limit, sizeof limit, ", threshold %g", (double)kv->threshold);
    else if (kv->threshold_auto)
        snprintf(limit, sizeof limit, ", threshold auto");
    if (kv->stage2_bits > 0 && kv->selector != FATHOM_SELECTOR_FLAT)
        snprintf(stage2, sizeof stage2, ", stage 2 q%d", (int)kv->stage2_bits);
    if (kv->coverage > 0)
        snprintf(coverage, sizeof coverage, ", coverage %g%s", (double)kv->coverage,
                 kv->coverage_bound ? " by the bound" : "");
    snprintf(text, bytes, "%s picks %s%s%s%s%s%s", selector_name(kv->selector), budget, limit,
             stage2, coverage, kv->estimate ? ", estimate of the rest" : "",
             kv->prefill == FATHOM_PREFILL_SPARSE ? ", for prompts too" : "");
}

static void write_disk(const fathom_engine *engine, const struct sizes *sizes, char *text,
                       size_t bytes)
{
    const struct fathom_kv_params *kv = &engine->params.kv;
    const struct segments *segments = &engine->segments;
    char deadline[40] = "";
    if (kv->disk_deadline_us > 0)
        snprintf(deadline, sizeof deadline, ", at most %g ms a layer",
                 (double)kv->disk_deadline_us * 1e-3);
    if (kv->disk_bytes == 0)
        snprintf(text, bytes, "no disk");
    else if (sizes->n_merged_ram == sizes->n_merged)
        snprintf(text, bytes, "all %u segments fit RAM", sizes->n_merged);
    else
        snprintf(text, bytes, "%u of %u segments fit RAM, the others: %s%s", sizes->n_merged_ram,
                 sizes->n_merged, segments->store_ops->text(segments->store), deadline);
}

static void write_plan(fathom_engine *engine, const struct sizes *sizes)
{
    const struct fathom_engine_params *p = &engine->params;
    const struct fathom_kv_params *kv = &p->kv;
    char picks[192] = "reads all rows", codec[16] = "", disk[192];
    const char *type = dtype_find(p->kv_type)->name;
    if (!engine->tiered) {
        snprintf(engine->plan, sizeof engine->plan, "dense: %u tokens, %s", p->n_tokens_max,
                 size_text(tail_token_bytes(engine) * p->n_tokens_max).text);
        return;
    }
    if (kv->codec != 0) snprintf(codec, sizeof codec, "q%d", (int)kv->codec);
    if (engine->picks) write_picks(kv, picks, sizeof picks);
    if (p->n_tokens_max < (uint64_t)kv->n_sink + kv->n_window + kv->n_segment)
        snprintf(picks, sizeof picks, "sinks and window hold the whole context");
    write_disk(engine, sizes, disk, sizeof disk);
    snprintf(engine->plan, sizeof engine->plan,
             "%s: %u sinks, window %u, segments of %u and %u; %s%s; hot rows %s, up to %s; merged "
             "rows %s, %s in RAM, index %s, segments before they are merged up to %s, search, "
             "staging and scratch up to %s; %s",
             engine->n_hot_max > 0 ? "dense, then tiered"
             : engine->picks       ? "sparse"
                                   : "stream",
             kv->n_sink, kv->n_window, kv->n_segment, kv->n_merged, picks,
             kv->positions == FATHOM_POSITIONS_COLLAPSED ? "; positions collapsed" : "", type,
             size_text(tail_token_bytes(engine) * engine->n_tail_max * p->n_seqs_max).text,
             kv->codec != 0 ? codec : type,
             size_text(sizes->n_merged_ram * sizes_rows_bytes(engine, SEGMENT_MERGED)).text,
             size_text(sizes->index_bytes).text, size_text(sizes->small_bytes).text,
             size_text(sizes->working_bytes).text, disk);
}

fathom_status plan_open(fathom_engine *engine)
{
    const struct fathom_engine_params *p = &engine->params;
    struct sizes sizes = {0};
    FATHOM_TRY(size_tail(engine));
    if (!engine->tiered) {
        engine->params.kv.mode = FATHOM_KV_DENSE;
        engine->params.kv.disk_bytes = 0;
    }
    if (!engine->tiered || !engine->picks) { // what only picking looks at is not built
        engine->params.kv.stage2_bits = 0;
        engine->params.kv.estimate = false;
    }
    if (!engine->tiered) {
        write_plan(engine, &sizes);
        return FATHOM_OK;
    }
    sizes_count(engine, &sizes);
    // Only merged segments leave RAM, and only where it has a limit.
    if (sizes.n_merged == 0 || p->kv.host_bytes == 0) engine->params.kv.disk_bytes = 0;
    engine->segments.n_heads = p->n_layers * p->n_kv_heads;
    engine->sample_bytes = (size_t)p->n_layers * SAMPLES * p->n_heads * p->d_k * sizeof(float);
    engine->n_part_values = sealed_part_values(engine);
    engine->selector_ops = wire_selector_ops();
    engine->n_block = count_block(engine);
    FATHOM_TRY(open_selector(engine, &sizes));
    size_class(engine, SEGMENT_SMALL, p->kv.n_segment, 0);
    size_class(engine, SEGMENT_MERGED, p->kv.n_merged, (uint32_t)p->kv.codec);
    FATHOM_TRY(sizes_fit(engine, &sizes));
    FATHOM_TRY(open_segments(engine, &sizes));
    FATHOM_TRY(open_store(engine, &sizes));
    FATHOM_TRY(open_workers(engine));
    engine->working_bytes = sizes.working_bytes;
    sizes_warn_disk(engine, &sizes);
    write_plan(engine, &sizes);
    log_write(&engine->device->log, FATHOM_LOG_INFO, "kv: %s", engine->plan);
    return FATHOM_OK;
}

static void close_workers(fathom_engine *engine)
{
    for (uint32_t i = 0; engine->workers != NULL && i < pool_count(engine->device->pool); i++) {
        mem_free(engine->workers[i].build);
        mem_free(engine->workers[i].attend);
        mem_free(engine->workers[i].runs);
    }
    mem_free(engine->workers);
    mem_free(engine->views);
    mem_free(engine->selections);
    mem_free(engine->picked);
    mem_free(engine->budgets);
    mem_free(engine->surveyed);
    mem_free(engine->head_budgets);
    mem_free(engine->head_stats);
    mem_free(engine->rotated);
    mem_free(engine->verified);
    mem_free(engine->parts);
}

void plan_close(fathom_engine *engine)
{
    struct segments *segments = &engine->segments;
    if (!engine->tiered) return;
    close_workers(engine);
    if (segments->store != NULL) segments->store_ops->close(&segments->store);
    fetch_close(&engine->fetch);
    for (int i = 0; i < SEGMENT_SIZES; i++) {
        slab_close(&segments->classes[i].rows);
        slab_close(&segments->classes[i].indexes);
    }
    mem_free(segments->all);
    mem_free(segments->extents);
    if (engine->selector_ops == NULL) return;
    engine->selector_ops->search_close(&engine->search);
    engine->selector_ops->close(&engine->selector);
}
