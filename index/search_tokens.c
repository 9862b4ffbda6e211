// The second stage: scores of the candidates' tokens, from quantised keys in the index or from the
// rows' own K codes.
//
// A query is packed for a segment. An item of work is several segments of a KV head, so that the
// rows of the next one come from memory while those of the one before are scored.

#include "index/search.h"

#include <math.h>

#include "index/fetch_ahead.h"

enum { SHARE_SEGMENTS = 8 };

// What a segment's codes of keys are to be read with.
struct key_range {
    const float *min;
    const float *step;
};

static struct key_range find_range(const struct search *s, const struct head *head,
                                   uint32_t segment)
{
    const struct index_view *view = &head->views[segment];
    const struct index_layout *layout = &s->layouts[segment];
    if (view_head(head, segment)->form.key_bits == 0)
        return (struct key_range){view->k_min, view->k_step};
    return (struct key_range){index_at(view->index, layout->k_min),
                              index_at(view->index, layout->k_step)};
}

// A segment's codes of keys: a unit's begin at its first row times `step_bytes`.
struct key_rows {
    const uint8_t *first;
    size_t step_bytes;
};

static struct key_rows find_keys(const struct search *s, const struct head *head, uint32_t segment)
{
    const struct selector_params *p = &s->selector->params;
    const struct index_view *view = &head->views[segment];
    if (view_head(head, segment)->form.key_bits == 0)
        return (struct key_rows){view->keys, view->keys_row_bytes};
    return (struct key_rows){index_at(view->index, s->layouts[segment].keys),
                             kv_code_bytes(p->stage2_bits, p->d_k)};
}

// Masked tokens count for nothing.
static void drop_masked(const struct search *s, struct head *head, const struct candidate *c)
{
    const struct index_view *view = &head->views[c->segment];
    const uint16_t *positions = index_at(view->index, s->layouts[c->segment].positions);
    if (!is_masked(s, head, c->segment)) return;
    for (uint32_t i = 0; i < c->n_rows; i++)
        if (positions[c->row + i] >= view->n_visible) head->token_rank[c->token + i] = -INFINITY;
}

// Rows of candidates, the next of which is row `at` of candidate `next`.
struct feed {
    const struct candidate *next;
    const struct candidate *end;
    uint32_t at;
};

enum { ROWS_AT_ONCE = 8 };

// Rows of one segment; behind the last there may be others.
struct batch {
    uint32_t segment;
    uint32_t n;
    const uint8_t *rows[SCORE_BATCH + ROWS_AT_ONCE - 1];
};

// Where n rows lie, in groups of ROWS_AT_ONCE: there is no branch to foretell in a small unit.
static void list_rows(const uint8_t **rows, const uint8_t *first, size_t row_bytes, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += ROWS_AT_ONCE)
        for (uint32_t j = 0; j < ROWS_AT_ONCE; j++)
            rows[i + j] = first + (i + j) * row_bytes;
}

static void fill_batch(const struct search *s, const struct head *head, size_t row_bytes,
                       struct feed *feed, struct batch *batch)
{
    batch->n = 0;
    if (feed->next == feed->end) return;
    batch->segment = feed->next->segment;
    const struct key_rows keys = find_keys(s, head, batch->segment);
    while (feed->next < feed->end && feed->next->segment == batch->segment &&
           batch->n < SCORE_BATCH) {
        const uint8_t *unit = keys.first + feed->next->row * keys.step_bytes;
        const uint32_t left = feed->next->n_rows - feed->at;
        const uint32_t n = left < SCORE_BATCH - batch->n ? left : SCORE_BATCH - batch->n;
        list_rows(batch->rows + batch->n, unit + feed->at * row_bytes, row_bytes, n);
        batch->n += n;
        feed->at += n;
        if (feed->at == feed->next->n_rows) feed->next++, feed->at = 0;
    }
}

// Scores tokens token .. token + n - 1 and ranks them as units are, by score.
static void score_batch(const struct search *s, struct head *head, const struct batch *batch,
                        const struct batch *next, uint32_t token, uint32_t thread)
{
    const struct selector_params *p = &s->selector->params;
    // For several tokens there is no room, and neither rest nor estimate.
    const bool keep = !s->args.skip_rest || (p->estimate && s->n_heads == p->group);
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

static void pack_query(const struct search *s, struct head *head, uint32_t segment, uint32_t thread)
{
    const struct selector_params *p = &s->selector->params;
    const struct key_range range = find_range(s, head, segment);
    p->kernels->kv.pack_row_query(p->stage2_bits, head->q, s->n_heads, p->d_k, range.min,
                                  range.step, s->row_queries + thread * s->row_query_bytes,
                                  head->token_error + (size_t)segment * s->n_heads);
}

// Begins to bring what the first batch of a segment needs besides its rows.
static void fetch_range(const struct search *s, const struct head *head, uint32_t segment)
{
    const struct key_range range = find_range(s, head, segment);
    const size_t bytes = s->selector->params.d_k * sizeof(float);
    fetch_ahead(range.min, bytes);
    fetch_ahead(range.step, bytes);
}

// A batch's rows are on their way while the one before it is scored.
static void score_candidates(const struct search *s, struct head *head, struct feed feed,
                             uint32_t thread)
{
    const struct selector_params *p = &s->selector->params;
    const size_t row_bytes = kv_code_bytes(p->stage2_bits, p->d_k);
    const struct candidate *first = feed.next;
    struct batch batches[2];
    uint32_t packed = UINT32_MAX; // segment
    if (first == feed.end) return;
    fill_batch(s, head, row_bytes, &feed, &batches[0]);
    fetch_range(s, head, batches[0].segment);
    for (uint32_t i = 0; i < batches[0].n; i++)
        fetch_ahead(batches[0].rows[i], row_bytes);
    for (uint32_t i = 0, token = first->token; batches[i].n > 0; i = 1 - i) {
        fill_batch(s, head, row_bytes, &feed, &batches[1 - i]);
        if (batches[i].segment != packed) pack_query(s, head, batches[i].segment, thread);
        packed = batches[i].segment;
        if (batches[1 - i].n > 0 && batches[1 - i].segment != packed)
            fetch_range(s, head, batches[1 - i].segment);
        score_batch(s, head, &batches[i], &batches[1 - i], token, thread);
        token += batches[i].n;
    }
    for (const struct candidate *c = first; c < feed.end; c++)
        drop_masked(s, head, c);
}

static uint32_t count_shares(const struct search *s)
{
    return (s->args.n_segments + SHARE_SEGMENTS - 1) / SHARE_SEGMENTS;
}

static void score_shares(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct call *call = arg;
    const struct search *s = call->s;
    const uint32_t n_shares = count_shares(s), n_segments = s->args.n_segments;
    for (size_t item = begin; item < end; item++) {
        struct head *head = &call->heads[item / n_shares];
        const uint32_t first = (uint32_t)(item % n_shares) * SHARE_SEGMENTS;
        const uint32_t left = n_segments - first;
        const uint32_t last = first + (left < SHARE_SEGMENTS ? left : SHARE_SEGMENTS);
        if (head->everything) continue;
        const struct feed feed = {head->candidates + head->segment_candidates[first],
                                  head->candidates + head->segment_candidates[last], 0};
        score_candidates(s, head, feed, thread);
    }
}

void search_tokens(struct call *call)
{
    search_cross(call, (size_t)call->n_heads * count_shares(call->s), score_shares, call);
}
