// The second stage: scores of the candidates' tokens, from quantised keys in the index or from the
// rows' own K codes. One item of work is (KV head, segment), because a query is packed for a
// segment.

#include "index/search.h"

#include <math.h>
#include <string.h>

enum { AHEAD = 4 }; // candidates fetched: some hundred nanoseconds of work

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

static void prefetch_rows(const uint8_t *keys, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 64)
        __builtin_prefetch(keys + at);
}

// Masked tokens count for nothing.
static void drop_masked(const struct search *s, struct head *head, const struct candidate *c)
{
    const struct index_view *view = &head->views[c->segment];
    const uint16_t *positions = index_at(view->index, s->layouts[c->segment].positions);
    for (uint32_t i = 0; i < c->n_rows; i++)
        if (positions[c->row + i] >= view->n_visible) head->token_rank[c->token + i] = -INFINITY;
}

// The ranks of n tokens from `token` on: as of units, by score.
static void rank_tokens(const struct search *s, struct head *head, uint32_t token, uint32_t n)
{
    const struct selector_params *p = &s->selector->params;
    const struct rank_args args = {
        .scores = head->token_scores + token,
        .stride = (size_t)p->n_rows_max,
        .mass = head->log_mass,
        .group = p->group,
        .sum = p->reduce_sum,
        .n = n,
        .out = head->token_rank + token,
    };
    p->kernels->kv.rank_scores(&args);
}

static void score_segment(const struct search *s, struct head *head, uint32_t segment,
                          uint8_t *row_query)
{
    const struct selector_params *p = &s->selector->params;
    const uint32_t begin = head->segment_candidates[segment];
    const uint32_t end = head->segment_candidates[segment + 1];
    if (begin == end) return;
    const struct keys keys = find_keys(s, head, segment);
    p->kernels->kv.pack_row_query(keys.bits, head->q, p->group, p->d_k, keys.k_min, keys.k_step,
                                  row_query, head->token_error + (size_t)segment * p->group);
    for (uint32_t i = begin; i < end; i++) {
        const struct candidate *c = &head->candidates[i];
        if (i + AHEAD < end)
            prefetch_rows(unit_keys(s, head, c + AHEAD), c[AHEAD].n_rows * keys.row_bytes);
        const struct score_rows_args args = {
            .q = row_query,
            .group = p->group,
            .d = p->d_k,
            .bits = keys.bits,
            .k = unit_keys(s, head, c),
            .n_rows = c->n_rows,
            .out = head->token_scores + c->token,
            .out_stride = (size_t)p->n_rows_max,
        };
        p->kernels->kv.score_rows(&args);
    }
    for (uint32_t i = begin, next; i < end; i = next) { // candidates whose tokens lie together
        const uint32_t token = head->candidates[i].token;
        uint32_t n = 0;
        for (next = i; next < end && head->candidates[next].token == token + n; next++)
            n += head->candidates[next].n_rows;
        rank_tokens(s, head, token, n);
    }
    for (uint32_t i = begin; i < end && is_masked(s, head, segment); i++)
        drop_masked(s, head, &head->candidates[i]);
}

static void score_segments(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct search *s = arg;
    for (size_t item = begin; item < end; item++) {
        struct head *head = &s->heads[item / s->args.n_segments];
        if (head->everything) continue;
        score_segment(s, head, (uint32_t)(item % s->args.n_segments),
                      s->row_queries + thread * s->row_query_bytes);
    }
}

void search_tokens(struct search *s)
{
    const struct selector_params *p = &s->selector->params;
    pool_for(p->pool, (size_t)p->n_kv_heads * s->args.n_segments, 1, score_segments, s);
}
