// Attention to sealed rows: runs of them go to the kernel, head by head, over the pool.

#include "src/kv/sealed.h"

#include <math.h>

#include "src/base/clock.h"
#include "src/base/status.h"

enum {
    TILE_TOKENS = 32,     // of one item, in steps of many tokens
    SHARES_MAX = 64,      // of a KV head's rows
    ITEMS_PER_THREAD = 2, // at least, so that threads end together
};

// ---- Partials -----------------------------------------------------------------------------------

// Shares of a KV head's rows in a step of n tokens.
static uint32_t count_shares(const fathom_engine *engine, uint32_t n_tokens)
{
    const uint32_t n_items =
        engine->params.n_kv_heads * ((n_tokens + TILE_TOKENS - 1) / TILE_TOKENS);
    const uint32_t n_wanted = ITEMS_PER_THREAD * pool_count(engine->device->pool);
    const uint32_t n = (n_wanted + n_items - 1) / n_items;
    return n < SHARES_MAX ? n : SHARES_MAX;
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
static struct sealed_part part_at(const fathom_engine *engine, const struct sealed_parts *parts,
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
    return part_at(engine, parts, parts->n_parts++);
}

const float *sealed_lse(fathom_engine *engine, const struct sealed_parts *parts)
{
    float *out = engine->parts + engine->n_part_values - engine->params.n_heads;
    const uint32_t n_read = 1 + parts->n_shares; // what the estimate adds was not read
    for (uint32_t h = 0; h < engine->params.n_heads; h++) {
        float lse[1 + SHARES_MAX];
        for (uint32_t i = 0; i < n_read; i++)
            lse[i] = part_at(engine, parts, i).lse[h];
        out[h] = engine->device->kernels->kv.log_sum_exp(lse, NULL, n_read);
    }
    return out;
}

const float *sealed_merge(fathom_engine *engine, const struct sealed_parts *parts)
{
    const size_t n = n_rows(engine, parts);
    const struct sealed_part first = part_at(engine, parts, 0);
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

// ---- Runs to the kernel -------------------------------------------------------------------------

// What all items of one crossing of the pool share.
struct share {
    fathom_engine *engine;
    const struct slot *slot;
    const struct sealed_parts *parts;
    uint32_t layer;
    uint32_t first; // token
    uint32_t n_tokens;
    uint32_t n_tiles;
    bool accumulate;
    const struct want *wants; // [n_wants], of one item after another by KV head; or NULL
    uint32_t n_wants;
};

// Gathers runs and hands them to the kernel when there are many, or when the format changes.
struct feeder {
    const struct share *share;
    struct attend_runs_args args;
    struct kv_run *runs; // [RUNS_MAX]
    const struct segment *segment;
    uint32_t head;
};

static void flush(struct feeder *f)
{
    if (f->args.n_runs == 0 && f->args.accumulate) return;
    f->share->engine->device->kernels->kv.attend_runs(&f->args);
    f->args.accumulate = true;
    f->args.n_runs = 0;
}

static void change_segment(struct feeder *f, const struct segment *segment)
{
    const struct segments *segments = &f->share->engine->segments;
    const struct segment_class *class = segment_class(segments, segment);
    const float *range = segment_k_range(segments, segment, f->head);
    if (range != NULL || f->args.k_min != NULL) flush(f);
    f->segment = segment;
    f->args.format = class->format;
    f->args.k_min = range;
    f->args.k_step = range == NULL ? NULL : range + class->format.d_k;
}

// Rows row .. row + n - 1 of a segment, inside one unit; unit_rows: where the unit's rows are.
static void feed(struct feeder *f, const struct segment *segment, const uint32_t *begins,
                 const uint8_t *unit_rows, uint32_t unit, uint32_t row, uint32_t n)
{
    const struct segment_class *class = segment_class(&f->share->engine->segments, segment);
    const uint32_t skip = row - begins[unit];
    if (segment != f->segment) change_segment(f, segment);
    if (f->args.n_runs == RUNS_MAX) flush(f);
    f->runs[f->args.n_runs++] = (struct kv_run){
        .k = unit_rows + skip * class->k_row_bytes,
        .v = unit_rows + (begins[unit + 1] - begins[unit]) * class->k_row_bytes +
             skip * class->v_row_bytes,
        .n_rows = n,
    };
}

// Units unit .. unit_end - 1; `rows` are those of `unit`. Rows that truncation hides are left out.
static void feed_units(struct feeder *f, const struct sealed *sealed, const uint8_t *rows,
                       uint32_t unit, uint32_t unit_end)
{
    const fathom_engine *engine = f->share->engine;
    const struct segment *segment = sealed->segment;
    const struct segment_class *class = segment_class(&engine->segments, segment);
    const uint32_t *begins = engine_begins(f->share->engine, segment, f->head),
                   first = begins[unit];
    const uint32_t n_visible = sealed->end - sealed->begin;
    const uint16_t *positions =
        engine->selector_ops->positions(segment_index(&engine->segments, segment, f->head));
    for (; unit < unit_end; unit++) {
        const uint8_t *at =
            rows + (begins[unit] - first) * (class->k_row_bytes + class->v_row_bytes);
        const uint32_t end = begins[unit + 1];
        if (n_visible == segment->n_rows) {
            feed(f, segment, begins, at, unit, begins[unit], end - begins[unit]);
            continue;
        }
        for (uint32_t row = begins[unit]; row < end; row++)
            if (positions[row] < n_visible) feed(f, segment, begins, at, unit, row, 1);
    }
}

// ---- Items --------------------------------------------------------------------------------------

struct item {
    uint32_t kv_head;
    uint32_t share;
    uint32_t tile;
};

// Part `share` of n things: from cut(share) to cut(share + 1).
static uint32_t cut(size_t n, uint32_t share, uint32_t n_shares)
{
    return (uint32_t)(n * share / n_shares);
}

static struct feeder begin_item(const struct share *s, const struct item *item, uint32_t thread)
{
    const fathom_engine *engine = s->engine;
    const struct fathom_engine_params *p = &engine->params;
    const uint32_t first = s->first + item->tile * TILE_TOKENS;
    const uint32_t left = s->first + s->n_tokens - first;
    const size_t row = (size_t)first * p->n_heads + item->kv_head * engine->group;
    const struct sealed_part part = part_at(engine, s->parts, 1 + item->share);
    struct kv_run *runs = engine->workers[thread].runs;
    return (struct feeder){
        .share = s,
        .runs = runs,
        .head = s->layer * p->n_kv_heads + item->kv_head,
        .args =
            {
                .q = engine->rotated + row * p->d_k,
                .q_stride = (size_t)p->n_heads * p->d_k,
                .n_tokens = left < TILE_TOKENS ? left : TILE_TOKENS,
                .group = engine->group,
                .format = engine->segments.classes[SEGMENT_SMALL].format,
                .runs = runs,
                .scale = p->scale,
                .accumulate = s->accumulate,
                .o = part.o + row * p->d_v,
                .o_stride = (size_t)p->n_heads * p->d_v,
                .lse = part.lse + row,
                .lse_stride = p->n_heads,
                .scratch = engine->workers[thread].attend,
            },
    };
}

static void feed_picked(struct feeder *f, const struct item *item)
{
    const struct share *s = f->share;
    const struct selection *picked = &s->engine->selections[item->kv_head];
    const uint32_t end = cut(picked->n_runs, item->share + 1, s->parts->n_shares);
    const uint32_t *begins = NULL;
    const uint8_t *rows = NULL;
    uint32_t sealed = UINT32_MAX;
    for (uint32_t i = cut(picked->n_runs, item->share, s->parts->n_shares); i < end; i++) {
        const struct picked_run *run = &picked->runs[i];
        const struct segment *segment = s->slot->sealed[run->segment].segment;
        if (run->segment != sealed) {
            sealed = run->segment;
            begins = engine_begins(f->share->engine, segment, f->head);
            rows = segment_rows(&s->engine->segments, segment, f->head);
        }
        if (rows == NULL) continue; // on disk: comes as a want
        const struct segment_class *class = segment_class(&s->engine->segments, segment);
        feed(f, segment, begins,
             rows + begins[run->unit] * (class->k_row_bytes + class->v_row_bytes), run->unit,
             run->row, run->n_rows);
    }
}

static void feed_all(struct feeder *f, const struct item *item)
{
    const struct share *s = f->share;
    const struct slot *slot = s->slot;
    const uint32_t end = cut(slot->n_sealed, item->share + 1, s->parts->n_shares);
    for (uint32_t i = cut(slot->n_sealed, item->share, s->parts->n_shares); i < end; i++) {
        const struct segment *segment = slot->sealed[i].segment;
        const uint8_t *rows = segment_rows(&s->engine->segments, segment, f->head);
        if (rows == NULL) continue;
        feed_units(f, &slot->sealed[i], rows, 0, engine_units(s->engine, segment, f->head));
    }
}

static void feed_want(struct feeder *f, const struct want *want)
{
    const struct share *s = f->share;
    if (want->run == want->run_end) {
        feed_units(f, &s->slot->sealed[want->sealed], want->rows, want->unit, want->unit_end);
        return;
    }
    const struct picked_run *runs = s->engine->selections[want->kv_head].runs;
    const uint32_t *begins = engine_begins(f->share->engine, want->segment, f->head);
    for (uint32_t i = want->run; i < want->run_end; i++)
        feed(f, want->segment, begins, want->rows, want->unit, runs[i].row, runs[i].n_rows);
}

static void feed_wants(struct feeder *f, const struct item *item)
{
    const struct share *s = f->share;
    uint32_t begin = 0, end;
    while (begin < s->n_wants && s->wants[begin].kv_head < item->kv_head)
        begin++;
    for (end = begin; end < s->n_wants && s->wants[end].kv_head == item->kv_head;)
        end++;
    const uint32_t last = begin + cut(end - begin, item->share + 1, s->parts->n_shares);
    for (uint32_t i = begin + cut(end - begin, item->share, s->parts->n_shares); i < last; i++)
        feed_want(f, &s->wants[i]);
}

// ---- Crossings of the pool ----------------------------------------------------------------------

typedef void (*feed_fn)(struct feeder *f, const struct item *item);

struct crossing {
    struct share share;
    feed_fn feed;
};

static void attend_range(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct crossing *c = arg;
    const struct share *s = &c->share;
    for (size_t i = begin; i < end; i++) {
        const struct item item = {
            .kv_head = (uint32_t)(i / s->n_tiles % s->engine->params.n_kv_heads),
            .share = (uint32_t)(i / s->n_tiles / s->engine->params.n_kv_heads),
            .tile = (uint32_t)(i % s->n_tiles),
        };
        struct feeder f = begin_item(s, &item, thread);
        c->feed(&f, &item);
        flush(&f);
    }
}

static void cross(const struct share *share, feed_fn feed_items)
{
    struct crossing crossing = {.share = *share, .feed = feed_items};
    const fathom_engine *engine = share->engine;
    pool_for(engine->device->pool,
             (size_t)engine->params.n_kv_heads * share->parts->n_shares * share->n_tiles, 1,
             attend_range, &crossing);
}

// Rows in RAM, and meanwhile and then those on disk, in as many rounds as the buffer asks for.
static fathom_status attend_everywhere(struct share *s, feed_fn feed_ram)
{
    fathom_engine *engine = s->engine;
    struct fetch *fetch = &engine->fetch;
    const uint32_t layer_head = s->layer * engine->params.n_kv_heads;
    uint32_t done = 0, n = 0;
    if (fetch->n_wants > 0)
        FATHOM_TRY(fetch_begin(fetch, &engine->segments, engine->selector_ops, layer_head, 0, &n));
    cross(s, feed_ram);
    s->accumulate = true;
    while (done < fetch->n_wants) {
        const uint64_t start_ns = clock_ns();
        FATHOM_TRY(fetch_wait(fetch, &engine->segments));
        engine->stats.disk_wait_s += (double)(clock_ns() - start_ns) * 1e-9;
        s->wants = fetch->wants + done;
        s->n_wants = n;
        cross(s, feed_wants);
        done += n;
        if (done == fetch->n_wants) break;
        FATHOM_TRY(
            fetch_begin(fetch, &engine->segments, engine->selector_ops, layer_head, done, &n));
    }
    return FATHOM_OK;
}

// ---- Calls --------------------------------------------------------------------------------------

static void warm_segments(const fathom_engine *engine, const struct slot *slot)
{
    for (uint32_t kv_head = 0; kv_head < engine->params.n_kv_heads; kv_head++) {
        const struct selection *s = &engine->selections[kv_head];
        for (uint32_t i = 0; i < s->n_runs; i++)
            slot->sealed[s->runs[i].segment].segment->heat += s->runs[i].n_rows;
    }
}

static struct share share_of_tokens(fathom_engine *engine, struct slot *slot, uint32_t layer,
                                    uint32_t first, uint32_t n, struct sealed_parts *parts)
{
    return (struct share){
        .engine = engine,
        .slot = slot,
        .parts = parts,
        .layer = layer,
        .first = first,
        .n_tokens = n,
        .n_tiles = (n + TILE_TOKENS - 1) / TILE_TOKENS,
    };
}

fathom_status sealed_attend_picked(fathom_engine *engine, struct slot *slot, uint32_t layer,
                                   uint32_t first, uint32_t n, bool accumulate,
                                   struct sealed_parts *parts)
{
    struct share share = share_of_tokens(engine, slot, layer, first, n, parts);
    share.accumulate = accumulate;
    parts->n_parts = 1 + parts->n_shares;
    warm_segments(engine, slot);
    wants_picked(engine, slot);
    return attend_everywhere(&share, feed_picked);
}

fathom_status sealed_attend_all(fathom_engine *engine, struct slot *slot, uint32_t layer,
                                struct sealed_parts *parts)
{
    struct share share = share_of_tokens(engine, slot, layer, 0, parts->n_tokens, parts);
    parts->n_parts = 1 + parts->n_shares;
    wants_all(engine, slot, layer);
    return attend_everywhere(&share, feed_all);
}
