// What an engine tells of itself.

#include "src/kv/engine.h"

#include <string.h>

#include "src/base/status.h"

void fathom_kv_stats_init(struct fathom_kv_stats *stats)
{
    memset(stats, 0, sizeof *stats);
    stats->struct_bytes = sizeof *stats;
}

void fathom_head_stats_init(struct fathom_head_stats *stats)
{
    memset(stats, 0, sizeof *stats);
    stats->struct_bytes = sizeof *stats;
}

static void add_head(struct fathom_head_stats *sum, const struct fathom_head_stats *head)
{
    sum->sealed_keys += head->sealed_keys;
    sum->picked_keys += head->picked_keys;
    sum->n_covered += head->n_covered;
    sum->coverage_bound += head->coverage_bound;
    sum->coverage_estimate += head->coverage_estimate;
    sum->n_verified += head->n_verified;
    sum->verified_coverage += head->verified_coverage;
    sum->verified_error += head->verified_error;
}

static void take_means(struct fathom_head_stats *head)
{
    if (head->n_covered > 0) {
        head->coverage_bound /= (double)head->n_covered;
        head->coverage_estimate /= (double)head->n_covered;
    }
    if (head->n_verified > 0) {
        head->verified_coverage /= (double)head->n_verified;
        head->verified_error /= (double)head->n_verified;
    }
}

// What the heads have of their own, together. A step of a layer is one of each of its heads.
static void fill_from_heads(const fathom_engine *engine, struct fathom_kv_stats *stats)
{
    struct fathom_head_stats all = {0};
    for (uint32_t i = 0; i < engine->segments.n_heads; i++)
        add_head(&all, &engine->head_stats[i]);
    take_means(&all);
    stats->sealed_keys = all.sealed_keys;
    stats->picked_keys = all.picked_keys;
    stats->n_covered = all.n_covered / engine->params.n_kv_heads;
    stats->coverage_bound = all.coverage_bound;
    stats->coverage_estimate = all.coverage_estimate;
    stats->n_verified = all.n_verified / engine->params.n_kv_heads;
    stats->verified_coverage = all.verified_coverage;
    stats->verified_error = all.verified_error;
}

// What is held now.
static void fill_held(const fathom_engine *engine, struct fathom_kv_stats *stats)
{
    const struct segments *segments = &engine->segments;
    for (uint32_t i = 0; i < engine->params.n_seqs_max; i++) {
        const struct slot *slot = &engine->slots[i];
        if (slot->generation % 2 == 1)
            stats->device_bytes +=
                tail_row(engine, slot, slot->n_tokens) * fathom_engine_token_bytes(engine);
    }
    stats->n_segments = segments->n_alive;
    stats->host_hits = engine->fetch.n_hits;
    for (int i = 0; i < SEGMENT_SIZES; i++) {
        const struct slab *rows = &segments->classes[i].rows,
                          *indexes = &segments->classes[i].indexes;
        stats->host_bytes += (rows->n_places - rows->n_free) * (uint64_t)rows->place_bytes;
        stats->index_bytes +=
            (indexes->n_places - indexes->n_free) * (uint64_t)indexes->place_bytes;
    }
    stats->host_bytes += stats->index_bytes + engine->working_bytes;
    if (segments->store != NULL) {
        struct store_stats store;
        segments->store_ops->stats(segments->store, &store);
        stats->disk_bytes = store.bytes_held;
        stats->disk_bytes_written = store.bytes_written;
        stats->disk_bytes_read = store.bytes_read;
        stats->disk_reads = store.n_reads;
        stats->n_stalls = store.n_stalls;
    }
}

fathom_status fathom_engine_stats(const fathom_engine *engine, struct fathom_kv_stats *stats)
{
    if (engine == NULL || stats == NULL) return status_set(FATHOM_EINVAL, "NULL argument");
    if (stats->struct_bytes != sizeof *stats)
        return status_set(FATHOM_EINVAL,
                          "kv stats: struct_bytes=%u: call fathom_kv_stats_init first",
                          stats->struct_bytes);
    *stats = engine->stats;
    stats->struct_bytes = sizeof *stats;
    fill_from_heads(engine, stats);
    fill_held(engine, stats);
    return FATHOM_OK;
}

fathom_status fathom_engine_head_stats(const fathom_engine *engine, uint32_t layer,
                                       uint32_t kv_head, struct fathom_head_stats *stats)
{
    if (engine == NULL || stats == NULL) return status_set(FATHOM_EINVAL, "NULL argument");
    const struct fathom_engine_params *p = &engine->params;
    if (stats->struct_bytes != sizeof *stats)
        return status_set(FATHOM_EINVAL,
                          "head stats: struct_bytes=%u: call fathom_head_stats_init first",
                          stats->struct_bytes);
    if (layer >= p->n_layers)
        return status_set(FATHOM_EINVAL, "layer=%u: must be 0 to %u", layer, p->n_layers - 1);
    if (kv_head >= p->n_kv_heads)
        return status_set(FATHOM_EINVAL, "kv_head=%u: must be 0 to %u", kv_head, p->n_kv_heads - 1);
    fathom_head_stats_init(stats);
    if (engine->head_stats != NULL)
        add_head(stats, &engine->head_stats[layer * p->n_kv_heads + kv_head]);
    take_means(stats);
    return FATHOM_OK;
}

const char *fathom_engine_plan(const fathom_engine *engine)
{
    return engine->plan;
}

const struct fathom_kv_params *fathom_engine_kv(const fathom_engine *engine)
{
    return &engine->params.kv;
}
