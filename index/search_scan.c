// Scores: representatives of groups, then of the units of the best groups, over the pool.
//
// Items of work are (KV head, some spans) for scores and (KV head) for what follows from them;
// both are cut by the data alone, so the result does not depend on the number of threads.

#include "index/search.h"

#include <math.h>

#include "index/cut.h"
#include "index/rank.h"
#include "index/vectors.h"

enum {
    // Below so many units of a head a scan of all takes little longer than choosing among them, and
    // loses nothing.
    TWO_LEVEL_UNITS = 16384,
    // Rows under the groups that are scanned: at least a quarter of all, and SCAN_FACTOR times what
    // will be picked or be a candidate. A quarter is RetroInfer's share of clusters that matter
    // (1.8 % read, 23.2 % estimated).
    SCAN_SHARE = 4,
    SCAN_FACTOR = 2,
    SHARE_SPANS = 32, // of groups, in one item of work: 128 KB of representatives with d 128
    AHEAD_SPANS = 4,  // are on their way from memory while one is scored
};
static const float ROUND_UP = 1.0f + 0x1p-18f;
// Ranks take half the ball's bound: the key that is farthest from the representative lies along the
// query hardly ever. On recorded and on synthetic attention this finds more of the mass than the
// whole ball or none of it, at each budget from 0.25 to 2 %.
static const float BALL_SHARE = 0.5f;

// ---- Begin --------------------------------------------------------------------------------------

// The head's part of each query; q: of the first one.
static void take_queries(const struct search *s, struct head *head, const float *q)
{
    const struct selector_params *p = &s->selector->params;
    const size_t n = (size_t)p->group * p->d_k;
    float *out = head->q;
    for (uint32_t left = s->n_heads; left > 0; left -= p->group, q += p->n_kv_heads * n)
        for (size_t i = 0; i < n; i++)
            *out++ = q[i] * p->scale;
}

static void prepare_query(const struct search *s, struct head *head, const float *q)
{
    const struct selector_params *p = &s->selector->params;
    const struct kv_kernels *kv = &p->kernels->kv;
    take_queries(s, head, q);
    for (uint32_t g = 0; g < s->n_heads; g++) {
        const float *x = head->q + (size_t)g * p->d_k;
        head->norm[g] = sqrtf(vector_dot(x, x, p->d_k)) * ROUND_UP;
        head->reach[g] = BALL_SHARE * head->norm[g];
    }
    kv->pack_rep_query(p->index_q8, head->q, s->n_heads, p->d_k, head->packed_q, head->slack);
    if (p->rank_by != FATHOM_RANK_BOX) return;
    for (uint32_t i = 0; i < s->n_heads * p->d_k; i++)
        head->q[i] = fabsf(head->q[i]);
    kv->pack_rep_query(p->index_q8, head->q, s->n_heads, p->d_k, head->packed_abs, head->slack_abs);
    take_queries(s, head, q);
}

static void reset_level(struct level *level)
{
    level->n_slots = level->n_spans = level->n_scored = 0;
}

static void prepare_head(void *arg, size_t begin, size_t end, uint32_t thread)
{
    struct search *s = arg;
    const struct selector_params *p = &s->selector->params;
    uint64_t n_units;
    (void)thread;
    for (size_t h = begin; h < end; h++) {
        struct head *head = &s->heads[h];
        head->views = s->args.views + h * s->args.n_segments;
        reset_level(&head->coarse);
        reset_level(&head->fine);
        head->n_candidates = head->n_runs = head->n_calls = 0;
        head->n_tokens = head->n_scored_rows = head->n_budgeted = head->n_outliers = 0;
        head->scanned_keys = head->scanned_bytes = 0;
        head->n_visible = n_units = 0;
        for (uint32_t i = 0; i < s->args.n_segments; i++) {
            const uint32_t n_visible = head->views[i].n_visible;
            head->n_visible += n_visible < s->n_rows[i] ? n_visible : s->n_rows[i];
            head->n_units[i] = view_head(head, i)->n_units;
            n_units += head->n_units[i];
        }
        // Many queries share the cost of a scan of all, and the groups would not do for them: of 32
        // needles in one text of 131,072 tokens 19 were found by groups and 30 without.
        head->two_level = p->kind == FATHOM_SELECTOR_CLUSTER && n_units >= TWO_LEVEL_UNITS &&
                          s->args.n_queries <= 1;
        prepare_query(s, head, s->args.q + h * p->group * p->d_k);
    }
}

void search_begin(struct search *s, const struct search_args *args)
{
    const struct selector_params *p = &s->selector->params;
    uint64_t first = 0;
    s->args = *args;
    s->n_heads = p->group * (args->n_queries > 0 ? args->n_queries : 1);
    for (uint32_t i = 0; i < args->n_segments; i++) {
        const uint32_t n_rows = args->views[i].n_rows;
        if (i > 0 && n_rows == s->n_rows[i - 1]) {
            s->layouts[i] = s->layouts[i - 1];
        } else {
            const struct index_form form = index_form_of(p, n_rows);
            index_layout_of(&form, &s->layouts[i]);
        }
        s->n_rows[i] = n_rows;
        s->first_row[i] = first;
        first += n_rows;
    }
    pool_for(p->pool, p->n_kv_heads, 1, prepare_head, s);
}

// ---- Items of work ------------------------------------------------------------------------------

struct scan {
    const struct call *call;
    bool coarse;
    uint32_t n_shares; // of a head, at most
};

// Sums an item's masses while its scores are at hand.
static void sum_part(const struct search *s, struct head *head, uint32_t part, uint32_t slot,
                     uint32_t n)
{
    const struct selector_params *p = &s->selector->params;
    const struct level *fine = &head->fine;
    for (uint32_t g = 0; g < s->n_heads; g++)
        head->parts[(size_t)g * (fine->stride / REP_LANES) + part] = p->kernels->kv.log_sum_exp(
            fine->scores + (size_t)g * fine->stride + slot, fine->weight + slot, n);
}

// Spans of a level of a head's in one item.
static uint32_t share_of(const struct head *head)
{
    return head->two_level ? SHARE_SPANS : 1;
}

// Items that the spans of a head's level make which have no scores yet.
static uint32_t count_shares(const struct head *head, bool coarse)
{
    const struct level *level = coarse ? &head->coarse : &head->fine;
    const uint32_t share = share_of(head);
    return (level->n_spans - level->n_scored + share - 1) / share;
}

static void score_items(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct scan *scan = arg;
    (void)thread;
    for (size_t item = begin; item < end; item++) {
        struct head *head = &scan->call->heads[item / scan->n_shares];
        const struct level *level = scan->coarse ? &head->coarse : &head->fine;
        const uint32_t part = (uint32_t)(item % scan->n_shares);
        const uint32_t share = share_of(head);
        const uint32_t first = level->n_scored + part * share;
        const uint32_t last = first + share < level->n_spans ? first + share : level->n_spans;
        uint32_t n_slots = 0;
        for (uint32_t i = first; i < last && i < first + AHEAD_SPANS; i++)
            search_fetch_span(scan->call->s, head, scan->coarse, &level->spans[i]);
        for (uint32_t i = first; i < last; i++) {
            if (i + AHEAD_SPANS < last)
                search_fetch_span(scan->call->s, head, scan->coarse,
                                  &level->spans[i + AHEAD_SPANS]);
            search_score_span(scan->call->s, head, scan->coarse, &level->spans[i]);
            n_slots += round_to_lanes(level->spans[i].n);
        }
        if (!scan->coarse && level->n_scored == 0 && first < last)
            sum_part(scan->call->s, head, part, level->spans[first].slot, n_slots);
    }
}

// Scores the spans that have none yet, of all heads of the call.
static void score_spans(struct scan *scan, bool coarse)
{
    const struct call *call = scan->call;
    scan->coarse = coarse;
    scan->n_shares = 0;
    for (uint32_t h = 0; h < call->n_heads; h++) {
        const uint32_t n = count_shares(&call->heads[h], coarse);
        if (n > scan->n_shares) scan->n_shares = n;
    }
    search_cross(call, (size_t)scan->n_shares * call->n_heads, score_items, scan);
}

// ---- Spans --------------------------------------------------------------------------------------

static void add_span(const struct search *s, struct head *head, struct level *level,
                     uint32_t segment, uint32_t first, uint32_t n)
{
    const struct selector_params *p = &s->selector->params;
    const size_t box = level->tops != NULL ? 3 : 1;
    level->spans[level->n_spans++] = (struct span){segment, first, n, level->n_slots};
    level->n_slots += round_to_lanes(n);
    head->scanned_keys += n;
    head->scanned_bytes += box * reps_bytes(p->index_q8, p->d_k, n) +
                           n * (2 * sizeof(float) + sizeof(uint32_t)); // radius, spread, begin
}

static void list_segments(const struct search *s, struct head *head, bool coarse)
{
    for (uint32_t i = 0; i < s->args.n_segments; i++)
        add_span(s, head, coarse ? &head->coarse : &head->fine, i, 0,
                 coarse ? groups_of(head->n_units[i]) : head->n_units[i]);
    if (!coarse) head->n_scored_rows = head->n_visible;
}

// Makes spans of the best groups that are not spans yet, until those of `need` rows are.
static void choose_groups(const struct search *s, struct head *head, uint64_t need)
{
    struct level *coarse = &head->coarse;
    const struct kv_kernels *kv = &s->selector->params.kernels->kv;
    const struct span *span = coarse->spans;
    struct cut cut = cut_find(kv, coarse->rank, coarse->weight, coarse->n_slots,
                              need - head->n_scored_rows, head->places);
    const size_t n = cut_places(kv, &cut, coarse->rank, coarse->n_slots, head->places);
    for (size_t i = 0; i < n; i++) {
        const uint32_t slot = head->places[i];
        if (!cut_takes(&cut, coarse->rank[slot], coarse->weight[slot])) continue;
        while (slot >= span->slot + span->n)
            span++;
        const uint32_t unit = (span->first + slot - span->slot) * COARSE_UNITS;
        const uint32_t left = head->n_units[span->segment] - unit;
        add_span(s, head, &head->fine, span->segment, unit,
                 left < COARSE_UNITS ? left : COARSE_UNITS);
        head->n_scored_rows += (uint64_t)coarse->weight[slot];
        coarse->weight[slot] = 0;
        coarse->rank[slot] = -INFINITY;
    }
}

// ---- The steps of a scan, head by head ----------------------------------------------------------

static void list_coarse(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct scan *scan = arg;
    (void)thread;
    for (size_t h = begin; h < end; h++) {
        struct head *head = &scan->call->heads[h];
        if (head->two_level && !head->everything && head->coarse.n_spans == 0)
            list_segments(scan->call->s, head, true);
    }
}

static void list_fine(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct scan *scan = arg;
    (void)thread;
    for (size_t h = begin; h < end; h++) {
        struct head *head = &scan->call->heads[h];
        const uint64_t share = head->n_visible / SCAN_SHARE;
        uint64_t need =
            head->need < head->n_visible / SCAN_FACTOR ? head->need * SCAN_FACTOR : head->n_visible;
        need = need > share ? need : share;
        if (head->everything) continue;
        if (!head->two_level) {
            if (head->fine.n_spans == 0) list_segments(scan->call->s, head, false);
            continue;
        }
        if (head->n_scored_rows >= need) continue;
        if (head->coarse.n_scored == 0) {
            head->coarse.n_scored = head->coarse.n_spans;
            rank_masses(scan->call->s, head, 0);
            rank_level(scan->call->s, head, &head->coarse, 0);
        }
        choose_groups(scan->call->s, head, need);
    }
}

static void rank_fine(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct scan *scan = arg;
    (void)thread;
    for (size_t h = begin; h < end; h++) {
        struct head *head = &scan->call->heads[h];
        struct level *fine = &head->fine;
        if (fine->n_scored == fine->n_spans) continue;
        // Later scans keep the first one's masses, so that ranks stay comparable.
        if (fine->n_scored == 0) rank_masses(scan->call->s, head, count_shares(head, false));
        const uint32_t first = fine->spans[fine->n_scored].slot;
        rank_level(scan->call->s, head, fine, first);
        fine->n_scored = fine->n_spans;
    }
}

void search_scan(struct call *call)
{
    struct scan scan = {.call = call};
    search_cross(call, call->n_heads, list_coarse, &scan);
    score_spans(&scan, true);
    search_cross(call, call->n_heads, list_fine, &scan);
    score_spans(&scan, false);
    search_cross(call, call->n_heads, rank_fine, &scan);
}
