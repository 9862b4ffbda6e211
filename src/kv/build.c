// Building a head of a segment: its rows in the order of their positions, grouped by the selector,
// encoded, indexed.

#include "src/kv/build.h"

#include <math.h>
#include <string.h>

#include "src/base/mem.h"

// A thread's scratch, for segments of up to n_build_max rows.
struct workspace {
    float *k;        // [n_rows, d_k] by position
    float *v;        // [n_rows, d_v]
    float *unit_k;   // [n_rows, d_k] in unit order, as attention will read them
    float *unit_v;   // [n_rows, d_v]
    float *received; // [n_rows]
    float *queries;  // [SAMPLES, group, d_k]
    uint32_t *order; // [n_rows]
    uint8_t *raw;    // [n_segment] rows of the tail
    void *selector;
};

// Of base NULL only the bytes used mean something.
static size_t carve(uint8_t *base, size_t *used, size_t bytes, void *out)
{
    *(void **)out = (void *)((uintptr_t)base + *used);
    *used += size_round(bytes, MEM_ALIGN_BYTES);
    return *used;
}

static size_t lay_out(const fathom_engine *engine, uint8_t *base, struct workspace *w)
{
    const struct fathom_engine_params *p = &engine->params;
    const size_t n = engine->n_build_max, d_k = p->d_k, d_v = p->d_v;
    const size_t row_bytes =
        engine->k_row_bytes > engine->v_row_bytes ? engine->k_row_bytes : engine->v_row_bytes;
    size_t used = 0;
    carve(base, &used, n * d_k * sizeof(float), &w->k);
    carve(base, &used, n * d_v * sizeof(float), &w->v);
    carve(base, &used, n * d_k * sizeof(float), &w->unit_k);
    carve(base, &used, n * d_v * sizeof(float), &w->unit_v);
    carve(base, &used, n * sizeof(float), &w->received);
    carve(base, &used, (size_t)SAMPLES * engine->group * d_k * sizeof(float), &w->queries);
    carve(base, &used, n * sizeof(uint32_t), &w->order);
    carve(base, &used, p->kv.n_segment * row_bytes, &w->raw);
    const size_t selector_bytes =
        engine->selector_ops->scratch_bytes(engine->selector, engine->n_build_max);
    return carve(base, &used, selector_bytes, &w->selector);
}

size_t build_scratch_bytes(const fathom_engine *engine)
{
    struct workspace w = {0};
    return lay_out(engine, NULL, &w);
}

// ---- Rows in the order of their positions -------------------------------------------------------

static void gather_tail(const fathom_engine *engine, const struct slot *slot, uint32_t head,
                        const struct workspace *w)
{
    fathom_device *device = engine->device;
    const struct fathom_engine_params *p = &engine->params;
    const size_t n = p->kv.n_segment, first = p->kv.n_sink;
    // Downloads from a device's own memory do not fail for want of anything but the device.
    (void)device->ops->download(device, w->raw,
                                tail_keys(engine, slot, head) + first * engine->k_row_bytes,
                                n * engine->k_row_bytes);
    device->kernels->dequant_row(p->kv_type, w->raw, w->k, n * p->d_k);
    for (uint32_t i = 0; i < n; i++)
        collapse_turn(engine, slot, i, w->k + (size_t)i * p->d_k);
    (void)device->ops->download(device, w->raw,
                                tail_values(engine, slot, head) + first * engine->v_row_bytes,
                                n * engine->v_row_bytes);
    device->kernels->dequant_row(p->kv_type, w->raw, w->v, n * p->d_v);
}

static void gather_segment(const fathom_engine *engine, const struct segment *segment,
                           uint32_t head, float *k, float *v)
{
    const struct fathom_engine_params *p = &engine->params;
    const struct kernel_table *kernels = engine->device->kernels;
    const struct segments *segments = &engine->segments;
    const size_t k_bytes = engine->k_row_bytes, v_bytes = engine->v_row_bytes;
    const void *index = segment_index(segments, segment, head);
    const uint32_t *begins = engine->selector_ops->unit_begins(index);
    const uint16_t *positions = engine->selector_ops->positions(index);
    const uint8_t *rows = segment_rows(segments, segment, head);
    for (uint32_t row = 0, unit = 0; row < segment->n_rows; row++) {
        while (row >= begins[unit + 1])
            unit++;
        const uint32_t begin = begins[unit], n = begins[unit + 1] - begin;
        const uint8_t *at = rows + begin * (k_bytes + v_bytes);
        kernels->dequant_row(p->kv_type, at + (row - begin) * k_bytes,
                             k + (size_t)positions[row] * p->d_k, p->d_k);
        kernels->dequant_row(p->kv_type, at + n * k_bytes + (row - begin) * v_bytes,
                             v + (size_t)positions[row] * p->d_v, p->d_v);
    }
}

static void gather(const fathom_engine *engine, const struct slot *slot, const struct job *job,
                   uint32_t head, const struct workspace *w)
{
    const struct fathom_engine_params *p = &engine->params;
    const size_t n = p->kv.n_segment;
    if (job->target->size == SEGMENT_SMALL) {
        gather_tail(engine, slot, head, w);
        return;
    }
    for (uint32_t i = 0; i < p->kv.n_merged / n; i++)
        gather_segment(engine, slot->sealed[job->first + i].segment, head, w->k + i * n * p->d_k,
                       w->v + i * n * p->d_v);
}

// ---- What late queries say of the rows ----------------------------------------------------------

// The group's queries of the samples: [n, group, d_k].
static uint32_t gather_queries(const fathom_engine *engine, const struct slot *slot, uint32_t head,
                               const struct workspace *w)
{
    const struct fathom_engine_params *p = &engine->params;
    const uint32_t layer = head / p->n_kv_heads, kv_head = head % p->n_kv_heads;
    const uint32_t n = slot->n_samples < SAMPLES ? slot->n_samples : SAMPLES;
    const size_t n_values = (size_t)engine->group * p->d_k;
    for (uint32_t i = 0; i < n; i++)
        memcpy(w->queries + i * n_values,
               slot->samples + ((size_t)layer * SAMPLES + i) * p->n_heads * p->d_k +
                   kv_head * n_values,
               n_values * sizeof(float));
    return n;
}

// received[j] = sum over queries of the softmax, among these rows, of their scores.
static void measure_received(const fathom_engine *engine, uint32_t n_queries, uint32_t n_rows,
                             const struct workspace *w)
{
    const uint32_t d = engine->params.d_k;
    float *scores = w->unit_k; // free until the rows are ordered
    memset(w->received, 0, n_rows * sizeof(float));
    for (size_t i = 0; i < (size_t)n_queries * engine->group; i++) {
        const float *q = w->queries + i * d;
        for (uint32_t j = 0; j < n_rows; j++) {
            float score = 0.0f;
            for (uint32_t c = 0; c < d; c++)
                score += q[c] * w->k[(size_t)j * d + c];
            scores[j] = engine->params.scale * score;
        }
        engine->device->kernels->softmax(scores, 1, n_rows);
        engine->device->kernels->add(w->received, scores, n_rows);
    }
}

// ---- Rows in unit order -------------------------------------------------------------------------

static void encode_rows(const fathom_engine *engine, const struct segment *target, uint32_t head,
                        const struct workspace *w)
{
    const struct segment_class *class = segment_class(&engine->segments, target);
    const struct kernel_table *kernels = engine->device->kernels;
    const struct kv_format *f = &class->format;
    const uint32_t *begins =
        engine->selector_ops->unit_begins(segment_index(&engine->segments, target, head));
    uint8_t *rows = segment_rows(&engine->segments, target, head);
    float *k_min = segment_k_range(&engine->segments, target, head);
    float *k_step = f->bits == 0 ? NULL : k_min + f->d_k;
    if (f->bits != 0)
        kernels->kv.k_range(f->bits, w->unit_k, target->n_rows, f->d_k, k_min, k_step);
    for (uint32_t row = 0, unit = 0; row < target->n_rows; row++) {
        while (row >= begins[unit + 1])
            unit++;
        const uint32_t begin = begins[unit], n = begins[unit + 1] - begin;
        uint8_t *k_at = rows + begin * (class->k_row_bytes + class->v_row_bytes) +
                        (row - begin) * class->k_row_bytes;
        uint8_t *v_at = rows + begin * (class->k_row_bytes + class->v_row_bytes) +
                        n * class->k_row_bytes + (row - begin) * class->v_row_bytes;
        float *k = w->unit_k + (size_t)row * f->d_k, *v = w->unit_v + (size_t)row * f->d_v;
        if (f->bits == 0) {
            kernels->convert(f->type, k, k_at, f->d_k);
            kernels->convert(f->type, v, v_at, f->d_v);
        } else {
            kernels->kv.k_encode(f->bits, k, k_min, k_step, f->d_k, k_at);
            kernels->kv.v_encode(f->bits, v, f->d_v, v_at);
            kernels->kv.k_decode(f->bits, k_at, k_min, k_step, f->d_k, k);
            kernels->kv.v_decode(f->bits, v_at, f->d_v, v);
        }
    }
}

static void build_head(const fathom_engine *engine, const struct slot *slot, const struct job *job,
                       uint32_t head, uint32_t thread)
{
    const struct fathom_engine_params *p = &engine->params;
    struct segment *target = job->target;
    struct workspace w = {0};
    lay_out(engine, engine->workers[thread].build, &w);
    gather(engine, slot, job, head, &w);
    const uint32_t n_queries = gather_queries(engine, slot, head, &w);
    const bool weigh = p->kv.selector == FATHOM_SELECTOR_BLOCK && n_queries > 0;
    if (weigh) measure_received(engine, n_queries, target->n_rows, &w);

    void *index = segment_index(&engine->segments, target, head);
    const struct selector_rows rows = {
        .k = w.k,
        .n_rows = target->n_rows,
        .merged = target->size == SEGMENT_MERGED,
        .queries = n_queries > 0 ? w.queries : NULL,
        .n_queries = n_queries,
        .received = weigh ? w.received : NULL,
    };
    engine->selector_ops->group(engine->selector, &rows, index, w.order, w.selector);
    for (uint32_t i = 0; i < target->n_rows; i++) {
        memcpy(w.unit_k + (size_t)i * p->d_k, w.k + (size_t)w.order[i] * p->d_k,
               p->d_k * sizeof(float));
        memcpy(w.unit_v + (size_t)i * p->d_v, w.v + (size_t)w.order[i] * p->d_v,
               p->d_v * sizeof(float));
    }
    encode_rows(engine, target, head, &w);
    engine->selector_ops->represent(engine->selector, w.unit_k, w.unit_v, target->n_rows, index,
                                    w.selector);
}

struct build_share {
    const fathom_engine *engine;
    const struct slot *slot;
    const struct job *job;
    uint32_t first;
};

static void build_range(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct build_share *s = arg;
    for (size_t i = begin; i < end; i++)
        build_head(s->engine, s->slot, s->job, s->first + (uint32_t)i, thread);
}

void build_heads(fathom_engine *engine, struct slot *slot, const struct job *job, uint32_t first,
                 uint32_t n)
{
    struct build_share share = {.engine = engine, .slot = slot, .job = job, .first = first};
    pool_for(engine->device->pool, n, 1, build_range, &share);
}
