// Runs of sealed rows on their way to the attention kernel, head by head, over the pool.

#include "src/kv/feed.h"

#include <string.h>

enum {
    BATCHES_MAX = 64, // that wait
    RUNS_AHEAD = 128, // stay behind when others are attended to, and are fetched meanwhile
};

// Runs that go to the kernel together: of one segment, where they are codes.
struct batch {
    uint32_t begin; // of its runs; they end where the next batch begins
    struct kv_format format;
    const float *range; // K's min and step; NULL: plain rows
};

// Gathers runs and hands them to the kernel when there are many.
struct feeder {
    const struct feed *feed;
    struct attend_runs_args args;
    struct kv_run *runs; // [RUNS_MAX]
    uint32_t n_runs;
    struct batch batches[BATCHES_MAX];
    uint32_t n_batches; // at least 1
    const struct segment *segment;
    uint32_t head;
};

// Where batch `b` and those behind it that are stored alike end.
static uint32_t end_alike(const struct feeder *f, uint32_t b)
{
    const uint32_t bits = f->batches[b].format.bits;
    while (b < f->n_batches && f->batches[b].format.bits == bits)
        b++;
    return b < f->n_batches ? f->batches[b].begin : f->n_runs;
}

// Attends to the runs before `end`; the others move to the front.
static void attend(struct feeder *f, uint32_t end)
{
    uint32_t begin = 0, b = 0;
    do {
        const struct batch *batch = &f->batches[b];
        const uint32_t batch_end = b + 1 < f->n_batches ? batch[1].begin : f->n_runs;
        const uint32_t stop = batch_end < end ? batch_end : end;
        f->args.format = batch->format;
        f->args.k_min = batch->range;
        f->args.k_step = batch->range == NULL ? NULL : batch->range + batch->format.d_k;
        f->args.runs = f->runs + begin;
        f->args.n_runs = stop - begin;
        f->args.n_next = end_alike(f, b) - stop;
        f->feed->engine->device->kernels->kv.attend_runs(&f->args);
        f->args.accumulate = true;
        begin = stop;
        if (stop == batch_end && b + 1 < f->n_batches) b++;
    } while (begin < end);
    f->n_runs -= end;
    memmove(f->runs, f->runs + end, f->n_runs * sizeof *f->runs);
    f->n_batches -= b;
    memmove(f->batches, f->batches + b, f->n_batches * sizeof *f->batches);
    for (b = 0; b < f->n_batches; b++)
        f->batches[b].begin -= f->batches[b].begin < end ? f->batches[b].begin : end;
}

static void change_segment(struct feeder *f, const struct segment *segment)
{
    const struct segments *segments = &f->feed->engine->segments;
    const float *range = segment_k_range(segments, segment, f->head);
    if (f->n_batches == BATCHES_MAX) attend(f, f->batches[BATCHES_MAX / 2].begin);
    struct batch *last = &f->batches[f->n_batches - 1];
    f->segment = segment;
    if (last->begin < f->n_runs) {
        if (range == NULL && last->range == NULL) return;
        last++;
        f->n_batches++;
    }
    *last = (struct batch){f->n_runs, segment_class(segments, segment)->format, range};
}

// Rows row .. row + n - 1 of a segment, inside one unit; unit_rows: where the unit's rows are.
static void feed(struct feeder *f, const struct segment *segment, const uint32_t *begins,
                 const uint8_t *unit_rows, uint32_t unit, uint32_t row, uint32_t n)
{
    const struct segment_class *class = segment_class(&f->feed->engine->segments, segment);
    const uint32_t skip = row - begins[unit];
    if (segment != f->segment) change_segment(f, segment);
    if (f->n_runs == RUNS_MAX) attend(f, RUNS_MAX - RUNS_AHEAD);
    f->runs[f->n_runs++] = (struct kv_run){
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
    const fathom_engine *engine = f->feed->engine;
    const struct segment *segment = sealed->segment;
    const struct segment_class *class = segment_class(&engine->segments, segment);
    const uint32_t *begins = engine_begins(f->feed->engine, segment, f->head), first = begins[unit];
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

static struct feeder begin_item(const struct feed *s, const struct item *item, uint32_t thread)
{
    const fathom_engine *engine = s->engine;
    const struct fathom_engine_params *p = &engine->params;
    const uint32_t first = s->first + item->tile * FEED_TOKENS;
    const uint32_t left = s->first + s->n_tokens - first;
    const size_t row = (size_t)first * p->n_heads + (size_t)item->kv_head * engine->group;
    const struct sealed_part part = sealed_part_at(engine, s->parts, 1 + item->share);
    return (struct feeder){
        .feed = s,
        .runs = engine->workers[thread].runs,
        .batches = {{.format = engine->segments.classes[SEGMENT_SMALL].format}},
        .n_batches = 1,
        .head = s->layer * p->n_kv_heads + item->kv_head,
        .args =
            {
                .q = engine->rotated + row * p->d_k,
                .q_stride = (size_t)p->n_heads * p->d_k,
                .n_tokens = left < FEED_TOKENS ? left : FEED_TOKENS,
                .group = engine->group,
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

static void picked_item(struct feeder *f, const struct item *item)
{
    const struct feed *s = f->feed;
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
            begins = engine_begins(f->feed->engine, segment, f->head);
            rows = segment_rows(&s->engine->segments, segment, f->head);
        }
        if (rows == NULL) continue; // on disk: comes as a want
        const struct segment_class *class = segment_class(&s->engine->segments, segment);
        feed(f, segment, begins,
             rows + begins[run->unit] * (class->k_row_bytes + class->v_row_bytes), run->unit,
             run->row, run->n_rows);
    }
}

static void all_item(struct feeder *f, const struct item *item)
{
    const struct feed *s = f->feed;
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
    const struct feed *s = f->feed;
    if (!fetch_has(want)) return;
    if (want->run == want->run_end) {
        feed_units(f, &s->slot->sealed[want->sealed], want->rows, want->unit, want->unit_end);
        return;
    }
    const struct picked_run *runs = s->engine->selections[want->kv_head].runs;
    const uint32_t *begins = engine_begins(f->feed->engine, want->segment, f->head);
    for (uint32_t i = want->run; i < want->run_end; i++)
        feed(f, want->segment, begins, want->rows, want->unit, runs[i].row, runs[i].n_rows);
}

static void wants_item(struct feeder *f, const struct item *item)
{
    const struct feed *s = f->feed;
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

struct crossing {
    const struct feed *feed;
    void (*item)(struct feeder *f, const struct item *item);
};

static void feed_range(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct crossing *c = arg;
    const struct feed *s = c->feed;
    for (size_t i = begin; i < end; i++) {
        const struct item item = {
            .kv_head = (uint32_t)(i / s->n_tiles % s->engine->params.n_kv_heads),
            .share = (uint32_t)(i / s->n_tiles / s->engine->params.n_kv_heads),
            .tile = (uint32_t)(i % s->n_tiles),
        };
        struct feeder f = begin_item(s, &item, thread);
        c->item(&f, &item);
        if (f.n_runs > 0 || !f.args.accumulate) attend(&f, f.n_runs);
    }
}

static void cross(const struct feed *feed, void (*item)(struct feeder *f, const struct item *item))
{
    struct crossing crossing = {feed, item};
    const fathom_engine *engine = feed->engine;
    pool_for(engine->device->pool,
             (size_t)engine->params.n_kv_heads * feed->parts->n_shares * feed->n_tiles, 1,
             feed_range, &crossing);
}

void feed_picked(const struct feed *feed)
{
    cross(feed, picked_item);
}

void feed_all(const struct feed *feed)
{
    cross(feed, all_item);
}

void feed_wants(const struct feed *feed)
{
    cross(feed, wants_item);
}
