// What an engine tells of itself.

#include "src/kv/engine.h"

#include <string.h>

#include "src/base/status.h"

void fathom_kv_stats_init(struct fathom_kv_stats *stats)
{
    memset(stats, 0, sizeof *stats);
    stats->struct_bytes = sizeof *stats;
}

// Sums become means; what is held now is counted.
static void fill(const fathom_engine *engine, struct fathom_kv_stats *stats)
{
    const struct segments *segments = &engine->segments;
    if (stats->n_covered > 0) {
        stats->coverage_bound /= (double)stats->n_covered;
        stats->coverage_estimate /= (double)stats->n_covered;
    }
    if (stats->n_verified > 0) {
        stats->verified_coverage /= (double)stats->n_verified;
        stats->verified_error /= (double)stats->n_verified;
    }
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
    fill(engine, stats);
    return FATHOM_OK;
}

const char *fathom_engine_plan(const fathom_engine *engine)
{
    return engine->plan;
}
