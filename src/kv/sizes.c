// Sizes of the tiers. What is reserved counts in full, since it can become real: budgets may be
// raised to everything after open.

#include "src/kv/sizes.h"

#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/base/status.h"
#include "src/kv/build.h"

static uint32_t least_of(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

void sizes_count(fathom_engine *engine, struct sizes *sizes)
{
    const struct fathom_engine_params *p = &engine->params;
    const uint32_t ratio = p->kv.n_merged / p->kv.n_segment;
    const uint64_t n_hot = (uint64_t)p->kv.n_sink + p->kv.n_window;
    const uint32_t n_cold = p->n_tokens_max > n_hot ? p->n_tokens_max - (uint32_t)n_hot : 0;
    const uint32_t n_whole = n_cold / p->kv.n_merged;
    // Merging begins with the last of `ratio` small ones and ends before half as many more are
    // there; a forced merge waits for none.
    const uint32_t n_small_of_seq = least_of(2 * ratio + 2, n_cold / p->kv.n_segment);
    // Truncation may leave capped merged ones behind, but whole ones they were.
    const uint32_t n_merged_of_seq = n_whole > 0 ? n_whole + 3 : 0;
    sizes->n_small = p->n_seqs_max * (n_small_of_seq > 0 ? n_small_of_seq : 1);
    sizes->n_merged = p->n_seqs_max * n_merged_of_seq;
    engine->n_sealed_max = n_merged_of_seq + sizes->n_small;
    engine->n_build_max = n_whole > 0 ? p->kv.n_merged : p->kv.n_segment;
    const uint32_t n_merged = least_of(sizes->n_merged, engine->n_sealed_max);
    const uint32_t n_small = least_of(sizes->n_small, engine->n_sealed_max - n_merged);
    sizes->n_rows_max = (uint64_t)n_merged * p->kv.n_merged + (uint64_t)n_small * p->kv.n_segment;
}

uint64_t sizes_rows_bytes(const fathom_engine *engine, enum segment_size size)
{
    const struct segment_class *class = &engine->segments.classes[size];
    return size_round(engine->segments.n_heads * class->head_bytes, STORE_PAGE_BYTES);
}

uint64_t sizes_index_bytes(const fathom_engine *engine, enum segment_size size)
{
    const struct segment_class *class = &engine->segments.classes[size];
    return size_round(engine->segments.n_heads * class->index_head_bytes, STORE_PAGE_BYTES);
}

// Scratch, partials, and what a step works on.
static uint64_t step_bytes(const fathom_engine *engine)
{
    const struct fathom_engine_params *p = &engine->params;
    const uint64_t n_threads = pool_count(engine->device->pool);
    const uint64_t of_heads = sizeof *engine->selections + sizeof *engine->picked +
                              sizeof *engine->budgets + CALIBRATE_GRID * sizeof *engine->surveyed +
                              engine->n_sealed_max * sizeof *engine->views;
    return n_threads * (build_scratch_bytes(engine) + ATTEND_SCRATCH_BYTES +
                        RUNS_MAX * sizeof(struct kv_run)) +
           engine->n_part_values * sizeof(float) +
           (uint64_t)p->n_step_max * p->n_heads * p->d_k * sizeof(float) +
           (uint64_t)p->n_heads * (p->d_v + 1) * sizeof(float) + p->n_kv_heads * of_heads;
}

// What sequences and segments are known by.
static uint64_t table_bytes(const fathom_engine *engine, const struct sizes *s)
{
    const struct fathom_engine_params *p = &engine->params;
    const uint64_t n_all = s->n_small + s->n_merged;
    const uint32_t n_rot = p->rope.pairing == FATHOM_ROPE_NONE ? 0 : p->rope.n_rot;
    const uint64_t rope_bytes = (uint64_t)p->n_step_max * n_rot * sizeof(float);
    const uint64_t slot_bytes = engine->sample_bytes + collapse_turn_bytes(engine) +
                                engine->n_sealed_max * sizeof(struct sealed) + rope_bytes;
    return p->n_seqs_max * slot_bytes + n_all * (sizeof(struct segment) + 2 * sizeof(uint32_t)) +
           engine->segments.n_heads * (sizeof *engine->head_budgets + sizeof *engine->head_stats);
}

// Of the disk tier, but for the buffer and its tables.
static uint64_t disk_table_bytes(const fathom_engine *engine, const struct sizes *s)
{
    const uint64_t n_heads = engine->segments.n_heads;
    const uint64_t n_extents = s->n_merged * n_heads;
    const uint64_t n_rows_pages =
        s->n_merged * (sizes_rows_bytes(engine, SEGMENT_MERGED) / STORE_PAGE_BYTES);
    const uint64_t n_file_pages = engine->params.kv.disk_bytes / STORE_PAGE_BYTES;
    const uint64_t n_pages = n_rows_pages < n_file_pages ? n_rows_pages : n_file_pages;
    return (s->n_small + s->n_merged) * n_heads * sizeof(struct store_extent) +
           n_pages * STORE_PAGE_RAM_BYTES + n_extents * STORE_EXTENT_RAM_BYTES;
}

// For units on their way from disk, where host_bytes are allowed in all; 0: no limit.
static uint64_t fetch_bytes(const fathom_engine *engine, uint64_t host_bytes)
{
    enum { FETCH_SHARE = 8 };
    if (engine->params.kv.disk_bytes == 0) return 0;
    return host_bytes > 0 ? host_bytes / FETCH_SHARE : 1ull << 30;
}

// The same with tables.
static uint64_t staging_bytes(const fathom_engine *engine, const struct sizes *s,
                              uint64_t host_bytes)
{
    const uint64_t bytes = fetch_bytes(engine, host_bytes);
    return bytes > 0 ? bytes + fetch_table_bytes(bytes, s->n_wants_max) : 0;
}

// `least` is without staging, which takes a share of what is given: what is needed grows with it.
static uint64_t needed_bytes(const fathom_engine *engine, const struct sizes *s, uint64_t least)
{
    uint64_t needed = 0;
    for (uint64_t bytes = least; bytes > needed;) {
        needed = size_round(bytes, 1 << 20);
        bytes = least + staging_bytes(engine, s, needed);
    }
    return needed;
}

// Before staging is added to the working bytes.
static fathom_status check_least(const fathom_engine *engine, const struct sizes *s,
                                 uint64_t merged_bytes, uint64_t least)
{
    const double mib = 1 << 20;
    const struct fathom_kv_params *kv = &engine->params.kv;
    if (least + staging_bytes(engine, s, kv->host_bytes) <= kv->host_bytes) return FATHOM_OK;
    const uint64_t needed = needed_bytes(engine, s, least);
    const uint64_t working_bytes = s->working_bytes + staging_bytes(engine, s, needed);
    return status_set(
        FATHOM_ENOMEM,
        "kv.host_bytes (--kv-ram) of %s: %llu MiB are needed: %.1f for the index, %.1f for "
        "segments before they are merged, %.1f for merged ones, %.1f for search, staging and "
        "scratch; raise it%s%s, take smaller segments (--kv-segment), or shorten the context",
        size_text(kv->host_bytes).text, (unsigned long long)(needed >> 20),
        (double)s->index_bytes / mib, (double)s->small_bytes / mib, (double)merged_bytes / mib,
        (double)working_bytes / mib,
        kv->disk_bytes > 0 || s->n_merged == 0
            ? ""
            : ", store rows in fewer bits (--kv-type), give a disk (--kv-disk)",
        kv->stage2_bits == 0 ? "" : ", do without the second stage's keys (--kv-stage2 off)");
}

fathom_status sizes_fit(const fathom_engine *engine, struct sizes *s)
{
    const struct fathom_kv_params *kv = &engine->params.kv;
    const struct selector_ops *ops = engine->selector_ops;
    const uint64_t merged_bytes = sizes_rows_bytes(engine, SEGMENT_MERGED);
    const bool disk = kv->disk_bytes > 0;
    s->small_bytes = s->n_small * (sizes_rows_bytes(engine, SEGMENT_SMALL) +
                                   sizes_index_bytes(engine, SEGMENT_SMALL));
    s->index_bytes = s->n_merged * sizes_index_bytes(engine, SEGMENT_MERGED);
    s->working_bytes =
        ops->search_bytes(engine->search) + step_bytes(engine) + table_bytes(engine, s);
    if (disk) {
        // Small segments never leave RAM.
        s->n_wants_max = least_of(s->n_merged, engine->n_sealed_max) * engine->params.n_kv_heads *
                         ops->units_max(engine->selector, kv->n_merged);
        s->fetch_bytes = fetch_bytes(engine, kv->host_bytes);
        s->working_bytes += disk_table_bytes(engine, s);
    }
    const uint64_t staging = staging_bytes(engine, s, kv->host_bytes);
    s->n_merged_ram = s->n_merged;
    if (kv->host_bytes == 0) {
        s->working_bytes += staging;
        return FATHOM_OK;
    }
    // Each sequence may have a merge under way, whose target stays in RAM; one more is cold.
    const uint64_t least_merged = disk ? (uint64_t)engine->params.n_seqs_max + 1 : s->n_merged;
    const uint64_t least =
        s->index_bytes + s->small_bytes + least_merged * merged_bytes + s->working_bytes;
    FATHOM_TRY(check_least(engine, s, least_merged * merged_bytes, least));
    s->working_bytes += staging;
    const uint64_t fit = least_merged + (kv->host_bytes - least - staging) / merged_bytes;
    if (fit < s->n_merged) s->n_merged_ram = (uint32_t)fit;
    return FATHOM_OK;
}

void sizes_warn_disk(const fathom_engine *engine, const struct sizes *s)
{
    const struct fathom_engine_params *p = &engine->params;
    const uint64_t merged_bytes = sizes_rows_bytes(engine, SEGMENT_MERGED);
    // At the end all that is neither in the tail nor waits to be merged lies in merged segments.
    const uint64_t n_unmerged = (uint64_t)engine->n_tail_max + 2 * (uint64_t)p->kv.n_merged;
    const uint64_t n_rows = p->n_tokens_max > n_unmerged ? p->n_tokens_max - n_unmerged : 0;
    const uint64_t n_full = n_rows / p->kv.n_merged;
    const bool daily = p->kv.disk_day_bytes > 0 && p->kv.disk_day_bytes < p->kv.disk_bytes;
    const uint64_t most_bytes = daily ? p->kv.disk_day_bytes : p->kv.disk_bytes;
    if (p->kv.disk_bytes == 0 || n_full <= s->n_merged_ram ||
        (n_full - s->n_merged_ram) * merged_bytes <= most_bytes)
        return;
    log_write(
        &engine->device->log, FATHOM_LOG_WARN,
        "kv: %s of %s is less than a sequence of %u tokens sends to disk, up to %llu MiB: raise it "
        "or kv.host_bytes (--kv-ram), or shorten the context",
        daily ? "kv.disk_day_bytes (--kv-disk-writes-per-day)" : "kv.disk_bytes (--kv-disk)",
        size_text(most_bytes).text, p->n_tokens_max,
        (unsigned long long)(size_round((s->n_merged - s->n_merged_ram) * merged_bytes, 1 << 20) >>
                             20));
}
