// The second stage: scores of the candidates' tokens, from quantised keys in the index or from the
// rows' own K codes. One item of work is (KV head, segment), because a query is packed for a
// segment.

#include "index/search.h"

#include <math.h>

// Where a segment's keys are.
struct keys {
    uint32_t bits;
    size_t row_bytes;
    const float *k_min;
    const float *k_step;
};

static struct keys find_keys(const struct search *s, const struct head *head, uint32_t segment)
{
    const struct selector_params *p = &s->selector->params;
    const struct index_view *view = &head->views[segment];
    const struct index_layout *layout = &s->layouts[segment];
    const size_t row_bytes = kv_code_bytes(p->stage2_bits, p->d_k);
    if (view_head(head, segment)->form.key_bits == 0)
        return (struct keys){p->stage2_bits, row_bytes, view->k_min, view->k_step};
    return (struct keys){p->stage2_bits, row_bytes, index_at(view->index, layout->k_min),
                         index_at(view->index, layout->k_step)};
}

static const uint8_t *unit_keys(const struct search *s, const struct head *head,
                                const struct candidate *c)
{
    const struct selector_params *p = &s->selector->params;
    const struct index_view *view = &head->views[c->segment];
    if (view_head(head, c->segment)->form.key_bits == 0)
        return view->keys + c->row * view->keys_row_bytes;
    const uint8_t *keys = index_at(view->index, s->layouts[c->segment].keys);
    return keys + c->row * kv_code_bytes(p->stage2_bits, p->d_k);
}

// Masked tokens count for nothing.
static void drop_masked(const struct search *s, struct head *head, const struct candidate *c)
{
    const struct index_view *view = &head->views[c->segment];
    const uint16_t *positions = index_at(view->index, s->layouts[c->segment].positions);
    for (uint32_t i = 0; i < c->n_rows; i++)
        if (positions[c->row + i] >= view->n_visible) head->token_rank[c->token + i] = -INFINITY;
}

// Rows of a segment's candidates, the next of which is row `at` of candidate `next`.
struct feed {
    const struct candidate *next;
    const struct candidate *end;
    uint32_t at;
};

struct batch {
    uint32_t n;
    const uint8_t *rows[SCORE_BATCH];
};

static void fill_batch(const struct search *s, const struct head *head, size_t row_bytes,
                       struct feed *feed, struct batch *batch)
{
    batch->n = 0;
    while (feed->next < feed->end && batch->n < SCORE_BATCH) {
        const uint8_t *keys = unit_keys(s, head, feed->next) + feed->at * row_bytes;
        const uint32_t left = feed->next->n_rows - feed->at;
        const uint32_t n = left < SCORE_BATCH - batch->n ? left : SCORE_BATCH - batch->n;
        for (uint32_t i = 0; i < n; i++)
            batch->rows[batch->n + i] = keys + i * row_bytes;
        batch->n += n;
        feed->at += n;
        if (feed->at == feed->next->n_rows) feed->next++, feed->at = 0;
    }
}

static void fetch_batch(const struct batch *batch, size_t row_bytes)
{
    for (uint32_t i = 0; i < batch->n; i++)
        for (size_t at = 0; at < row_bytes; at += 64)
            __builtin_prefetch(batch->rows[i] + at);
}

// Scores tokens token .. token + n - 1 and ranks them as units are, by score.
static void score_batch(const struct search *s, struct head *head, const struct batch *batch,
                        const struct batch *next, uint32_t token, uint32_t thread)
{
    const struct selector_params *p = &s->selector->params;
    const bool keep = !s->args.skip_rest;
    float *scores = keep ? head->token_scores + token
                         : s->row_scores + (size_t)thread * s->n_heads * SCORE_BATCH;
    const size_t stride = keep ? (size_t)p->n_rows_max : SCORE_BATCH;
    const struct score_rows_args args = {
        .q = s->row_queries + thread * s->row_query_bytes,
        .group = s->n_heads,
        .d = p->d_k,
        .bits = p->stage2_bits,
        .rows = batch->rows,
        .n_rows = batch->n,
        .out = scores,
        .out_stride = stride,
        .next = next->rows,
        .n_next = next->n,
    };
    const struct rank_args rank = {
        .scores = scores,
        .stride = stride,
        .mass = head->log_mass,
        .group = s->n_heads,
        .sum = p->reduce_sum,
        .n = batch->n,
        .out = head->token_rank + token,
    };
    p->kernels->kv.score_rows(&args);
    p->kernels->kv.rank_scores(&rank);
}

// A batch's rows are on their way while the one before it is scored, or the query is packed.
static void score_segment(const struct search *s, struct head *head, uint32_t segment,
                          uint32_t thread)
{
    const struct selector_params *p = &s->selector->params;
    const struct candidate *first = head->candidates + head->segment_candidates[segment];
    const struct candidate *end = head->candidates + head->segment_candidates[segment + 1];
    struct feed feed = {first, end, 0};
    struct batch batches[2];
    if (first == end) return;
    const struct keys keys = find_keys(s, head, segment);
    fill_batch(s, head, keys.row_bytes, &feed, &batches[0]);
    fetch_batch(&batches[0], keys.row_bytes);
    p->kernels->kv.pack_row_query(keys.bits, head->q, s->n_heads, p->d_k, keys.k_min, keys.k_step,
                                  s->row_queries + thread * s->row_query_bytes,
                                  head->token_error + (size_t)segment * s->n_heads);
    for (uint32_t i = 0, token = first->token; batches[i].n > 0; i = 1 - i) {
        fill_batch(s, head, keys.row_bytes, &feed, &batches[1 - i]);
        score_batch(s, head, &batches[i], &batches[1 - i], token, thread);
        token += batches[i].n;
    }
    for (const struct candidate *c = first; c < end && is_masked(s, head, segment); c++)
        drop_masked(s, head, c);
}

static void score_segments(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct call *call = arg;
    const struct search *s = call->s;
    for (size_t item = begin; item < end; item++) {
        struct head *head = &call->heads[item / s->args.n_segments];
        if (head->everything) continue;
        score_segment(s, head, (uint32_t)(item % s->args.n_segments), thread);
    }
}

void search_tokens(struct call *call)
{
    search_cross(call, (size_t)call->n_heads * call->s->args.n_segments, score_segments, call);
}
