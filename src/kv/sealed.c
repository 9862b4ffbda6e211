// Attention to sealed rows: partials, and rounds of what is in RAM and what comes from disk.

#include "src/kv/sealed.h"

#include <math.h>

#include "src/base/clock.h"
#include "src/base/status.h"
#include "src/kv/feed.h"

enum {
    // Of a step at least, so that threads end together. As many on any number of threads, so that
    // sums are the same to the bit; more of them cost a small step time.
    ITEMS_MIN = 16,
};

// ---- Partials -----------------------------------------------------------------------------------

// Shares of a KV head's rows in a step of n tokens.
static uint32_t count_shares(const fathom_engine *engine, uint32_t n_tokens)
{
    const uint32_t n_items =
        engine->params.n_kv_heads * ((n_tokens + FEED_TOKENS - 1) / FEED_TOKENS);
    return (ITEMS_MIN + n_items - 1) / n_items;
}

size_t sealed_part_values(const fathom_engine *engine)
{
    const struct fathom_engine_params *p = &engine->params;
    size_t most = 0;
    for (uint32_t n = 1; n <= p->n_step_max; n++) {
        const size_t n_parts = 2 + count_shares(engine, n);
        const size_t values = n_parts * n * p->n_heads * (p->d_v + 1);
        if (values > most) most = values;
    }
    return most + p->n_heads;
}

struct sealed_parts sealed_parts_begin(const fathom_engine *engine, uint32_t n_tokens)
{
    return (struct sealed_parts){.n_tokens = n_tokens, .n_shares = count_shares(engine, n_tokens)};
}

static size_t n_rows(const fathom_engine *engine, const struct sealed_parts *parts)
{
    return (size_t)parts->n_tokens * engine->params.n_heads;
}

// o of all parts first, lse behind.
struct sealed_part sealed_part_at(const fathom_engine *engine, const struct sealed_parts *parts,
                                  uint32_t i)
{
    const size_t n = n_rows(engine, parts), n_parts_max = 2 + parts->n_shares;
    return (struct sealed_part){
        .o = engine->parts + i * n * engine->params.d_v,
        .lse = engine->parts + n_parts_max * n * engine->params.d_v + i * n,
    };
}

struct sealed_part sealed_add_part(fathom_engine *engine, struct sealed_parts *parts)
{
    return sealed_part_at(engine, parts, parts->n_parts++);
}

const float *sealed_lse(fathom_engine *engine, const struct sealed_parts *parts)
{
    float *out = engine->parts + engine->n_part_values - engine->params.n_heads;
    const uint32_t n_read = 1 + parts->n_shares; // what the estimate adds was not read
    for (uint32_t h = 0; h < engine->params.n_heads; h++) {
        float lse[1 + ITEMS_MIN];
        for (uint32_t i = 0; i < n_read; i++)
            lse[i] = sealed_part_at(engine, parts, i).lse[h];
        out[h] = engine->device->kernels->kv.log_sum_exp(lse, NULL, n_read);
    }
    return out;
}

const float *sealed_merge(fathom_engine *engine, const struct sealed_parts *parts)
{
    const size_t n = n_rows(engine, parts);
    const struct sealed_part first = sealed_part_at(engine, parts, 0);
    const struct merge_args args = {
        .n_parts = parts->n_parts,
        .n_rows = n,
        .d_v = engine->params.d_v,
        .o = first.o,
        .part_stride_o = n * engine->params.d_v,
        .lse = first.lse,
        .part_stride_lse = n,
        .out_o = first.o,
    };
    engine->device->kernels->merge(&args);
    return first.o;
}

// ---- Rounds -------------------------------------------------------------------------------------

static fathom_status begin_reads(fathom_engine *engine, uint32_t layer, int64_t deadline_ns)
{
    return fetch_begin(&engine->fetch, &engine->segments, engine->selector_ops,
                       layer * engine->params.n_kv_heads, deadline_ns);
}

fathom_status sealed_begin_reads(fathom_engine *engine, const struct slot *slot, uint32_t layer,
                                 uint32_t kv_head)
{
    wants_picked(engine, slot, kv_head);
    return begin_reads(engine, layer, 0);
}

// How many of the wants that are begun and not used belong to the next heads, one for each thread:
// whole heads, so that sums do not depend on when their rows came.
static uint32_t count_next(const struct fetch *fetch, uint32_t n_threads)
{
    uint32_t i = fetch->n_used;
    while (i < fetch->n_begun &&
           fetch->wants[i].kv_head / n_threads == fetch->wants[fetch->n_used].kv_head / n_threads)
        i++;
    return i - fetch->n_used;
}

// Rows in RAM, and meanwhile and then those on disk: the first heads' while the next ones' are on
// their way, and in as many rounds as the buffer asks for.
static fathom_status attend_everywhere(struct feed *s, void (*feed_ram)(const struct feed *feed))
{
    fathom_engine *engine = s->engine;
    struct fetch *fetch = &engine->fetch;
    const uint32_t n_threads = pool_count(engine->device->pool);
    feed_ram(s);
    s->accumulate = true;
    while (fetch->n_used < fetch->n_wants) {
        const uint64_t start_ns = clock_ns();
        FATHOM_TRY(begin_reads(engine, s->layer, s->deadline_ns));
        const uint32_t n = count_next(fetch, n_threads);
        FATHOM_TRY(fetch_wait(fetch, &engine->segments, n, s->deadline_ns));
        if (s->slot->step_tokens == 1)
            engine->stats.disk_wait_s += (double)(clock_ns() - start_ns) * 1e-9;
        if (n == 0) break; // and the deadline has passed
        s->wants = fetch->wants + fetch->n_used;
        s->n_wants = n;
        feed_wants(s);
        wants_leave(engine, fetch->n_used, n);
        fetch->n_used += n;
    }
    wants_leave(engine, fetch->n_used, fetch->n_wants - fetch->n_used);
    return FATHOM_OK;
}

// ---- Calls --------------------------------------------------------------------------------------

static void account_runs(fathom_engine *engine, const struct slot *slot, uint32_t n_tokens)
{
    for (uint32_t kv_head = 0; kv_head < engine->params.n_kv_heads; kv_head++) {
        const struct selection *s = &engine->selections[kv_head];
        for (uint32_t i = 0; i < s->n_runs; i++) {
            struct segment *segment = slot->sealed[s->runs[i].segment].segment;
            const uint64_t n_rows = s->runs[i].n_rows;
            segment->heat += n_rows;
            if (n_tokens > 1) continue;
            engine->stats.read_bytes += n_rows * segment_row_bytes(&engine->segments, segment);
        }
    }
}

static struct feed feed_of_tokens(fathom_engine *engine, struct slot *slot, uint32_t layer,
                                  uint32_t first, uint32_t n, struct sealed_parts *parts)
{
    return (struct feed){
        .engine = engine,
        .slot = slot,
        .parts = parts,
        .layer = layer,
        .first = first,
        .n_tokens = n,
        .n_tiles = (n + FEED_TOKENS - 1) / FEED_TOKENS,
        .deadline_ns = INT64_MAX,
    };
}

// Of a step's layer, all rounds together; INT64_MAX: none. A head that reads everything has units
// that nothing stands in for.
static int64_t find_deadline(const fathom_engine *engine, struct sealed_parts *parts, bool again)
{
    const uint32_t deadline_us = engine->params.kv.disk_deadline_us;
    if (deadline_us == 0 || parts->n_tokens > 1) return INT64_MAX;
    if (!again) parts->deadline_ns = (int64_t)clock_ns() + (int64_t)deadline_us * 1000;
    for (uint32_t kv_head = 0; kv_head < engine->params.n_kv_heads; kv_head++)
        if (engine->selections[kv_head].everything) return INT64_MAX;
    return parts->deadline_ns;
}

fathom_status sealed_attend_picked(fathom_engine *engine, struct slot *slot, uint32_t layer,
                                   uint32_t first, uint32_t n, bool accumulate,
                                   struct sealed_parts *parts)
{
    struct feed feed = feed_of_tokens(engine, slot, layer, first, n, parts);
    feed.accumulate = accumulate;
    feed.deadline_ns = find_deadline(engine, parts, accumulate);
    parts->n_parts = 1 + parts->n_shares;
    account_runs(engine, slot, parts->n_tokens);
    FATHOM_TRY(attend_everywhere(&feed, feed_picked));
    const struct fetch *fetch = &engine->fetch;
    if (fetch->n_left > 0) engine->selector_ops->leave(engine->search, fetch->left, fetch->n_left);
    engine->stats.late_units += fetch->n_left;
    return FATHOM_OK;
}

fathom_status sealed_attend_all(fathom_engine *engine, struct slot *slot, uint32_t layer,
                                struct sealed_parts *parts)
{
    struct feed feed = feed_of_tokens(engine, slot, layer, 0, parts->n_tokens, parts);
    parts->n_parts = 1 + parts->n_shares;
    fetch_reset(&engine->fetch);
    wants_all(engine, slot, layer);
    FATHOM_TRY(begin_reads(engine, layer, 0));
    return attend_everywhere(&feed, feed_all);
}
