// Picks: the best units, or the best tokens of the best units, as runs of rows.
//
// A pick goes on where the one before it ended: what was picked ranks at -infinity and is not taken
// again.

#include "index/search.h"

#include <math.h>
#include <string.h>

#include "index/cut.h"
#include "index/rank.h"

// ---- Runs ---------------------------------------------------------------------------------------

static void add_run(struct head *head, uint32_t segment, uint32_t unit, uint32_t row,
                    uint32_t n_rows)
{
    struct picked_run *last = head->n_runs > 0 ? &head->runs[head->n_runs - 1] : NULL;
    if (last != NULL && last->segment == segment && last->unit == unit &&
        last->row + last->n_rows == row)
        last->n_rows += n_rows;
    else
        head->runs[head->n_runs++] = (struct picked_run){segment, unit, row, n_rows};
}

// Adds a unit's rows, but for masked ones and, with `left`, those picked before.
static void add_unit(const struct search *s, struct head *head, uint32_t segment, uint32_t unit,
                     bool left)
{
    const struct index_view *view = &head->views[segment];
    const uint32_t *begin = index_at(view->index, s->layouts[segment].unit_begin);
    const uint16_t *positions = index_at(view->index, s->layouts[segment].positions);
    const bool masked = is_masked(s, head, segment);
    if (!masked && !(left && head->n_calls > 1)) {
        add_run(head, segment, unit, begin[unit], begin[unit + 1] - begin[unit]);
        return;
    }
    for (uint32_t row = begin[unit]; row < begin[unit + 1]; row++)
        if ((!masked || positions[row] < view->n_visible) &&
            !(left && search_was_picked(s, head, segment, row)))
            add_run(head, segment, unit, row, 1);
}

static bool run_before(const struct picked_run *a, const struct picked_run *b)
{
    return a->segment != b->segment ? a->segment < b->segment : a->row < b->row;
}

// Shell sort: runs come as a few ascending lists, one after another, and most often as one.
static void sort_runs(struct picked_run *runs, uint32_t n)
{
    uint32_t n_sorted = n > 0 ? 1 : 0;
    while (n_sorted < n && run_before(&runs[n_sorted - 1], &runs[n_sorted]))
        n_sorted++;
    for (uint32_t gap = n_sorted < n ? n / 2 : 0; gap > 0; gap /= 2)
        for (uint32_t i = gap; i < n; i++) {
            const struct picked_run run = runs[i];
            uint32_t at = i;
            for (; at >= gap && run_before(&run, &runs[at - gap]); at -= gap)
                runs[at] = runs[at - gap];
            runs[at] = run;
        }
}

// Likewise.
static void sort_candidates(struct candidate *candidates, uint32_t n)
{
    uint32_t n_sorted = n > 0 ? 1 : 0;
    while (n_sorted < n && candidates[n_sorted - 1].segment <= candidates[n_sorted].segment)
        n_sorted++;
    for (uint32_t gap = n_sorted < n ? n / 2 : 0; gap > 0; gap /= 2)
        for (uint32_t i = gap; i < n; i++) {
            const struct candidate c = candidates[i];
            uint32_t at = i;
            for (; at >= gap && c.segment < candidates[at - gap].segment; at -= gap)
                candidates[at] = candidates[at - gap];
            candidates[at] = c;
        }
}

// ---- Before the scores --------------------------------------------------------------------------

// Keeps in mind what the call before this one picked.
static void mark_picked(const struct search *s, struct head *head)
{
    if (head->n_calls == 1)
        memset(head->picked, 0, (s->selector->params.n_rows_max / 64 + 1) * sizeof *head->picked);
    for (uint32_t i = 0; i < head->n_runs; i++) {
        const struct picked_run *run = &head->runs[i];
        const uint64_t first = s->first_row[run->segment] + run->row;
        for (uint64_t bit = first; bit < first + run->n_rows; bit++)
            head->picked[bit / 64] |= 1ull << bit % 64;
    }
}

// Rows that the second stage scores, to pick so many of. A floor, since a small multiple of a small
// budget is few units, and their ranks err: with 1 % of 16,384 tokens picked, twice the budget lost
// 9 of 100 needles that eight times found.
static uint64_t count_candidates(const struct selector_params *p, uint64_t budget)
{
    enum { LEAST_ROWS = 4096 };
    const uint64_t n = (uint64_t)ceil((double)budget * (double)p->candidates);
    return n > LEAST_ROWS || budget == 0 ? n : LEAST_ROWS;
}

static void begin_call(const struct search *s, struct head *head, uint64_t budget)
{
    const struct selector_params *p = &s->selector->params;
    if (head->n_calls > 0) mark_picked(s, head);
    head->n_calls++;
    head->n_runs = 0;
    const bool by_threshold = s->args.threshold > 0 && head->n_calls == 1 && budget != UINT64_MAX;
    head->everything = budget >= head->n_visible && !by_threshold;
    head->budget = budget < head->n_visible ? budget : head->n_visible;
    head->need =
        head->everything || p->stage2_bits == 0 ? head->budget : count_candidates(p, head->budget);
}

// ---- Units --------------------------------------------------------------------------------------

static void take_unit(const struct search *s, struct head *head, const struct span *span,
                      uint32_t i, bool candidate)
{
    const uint32_t *begin =
        index_at(head->views[span->segment].index, s->layouts[span->segment].unit_begin);
    const uint32_t unit = span->first + i;
    const uint32_t slot = span->slot + i;
    const uint32_t n_rows = begin[unit + 1] - begin[unit];
    head->fine.weight[slot] = 0;
    head->fine.rank[slot] = -INFINITY;
    head->whole[slot] = 0;
    if (!candidate) {
        add_unit(s, head, span->segment, unit, false);
        return;
    }
    head->candidates[head->n_candidates++] = (struct candidate){
        .segment = span->segment,
        .unit = unit,
        .row = begin[unit],
        .n_rows = n_rows,
        .slot = slot,
    };
}

// Of the chunk selector: units that their representatives do not tell of.
static void take_outliers(const struct search *s, struct head *head)
{
    for (uint32_t i = 0; i < head->fine.n_spans; i++) {
        const struct span *span = &head->fine.spans[i];
        const uint8_t *outliers =
            index_at(head->views[span->segment].index, s->layouts[span->segment].outliers);
        for (uint32_t j = 0; j < span->n; j++) {
            const float weight = head->fine.weight[span->slot + j];
            if (outliers[span->first + j] == 0 || !(weight > 0)) continue;
            head->n_outliers += (uint64_t)weight;
            take_unit(s, head, span, j, false);
        }
    }
}

// Takes the best units until they hold `want` rows more.
static void take_units(const struct search *s, struct head *head, uint64_t want, bool candidates)
{
    struct level *fine = &head->fine;
    const struct kv_kernels *kv = &s->selector->params.kernels->kv;
    const struct span *span = fine->spans;
    struct cut cut = cut_find(kv, fine->rank, fine->weight, fine->n_slots, want, head->places);
    const size_t n = cut_places(kv, &cut, fine->rank, fine->n_slots, head->places);
    for (size_t i = 0; i < n; i++) {
        const uint32_t slot = head->places[i];
        const float weight = fine->weight[slot];
        if (!cut_takes(&cut, fine->rank[slot], weight)) continue;
        while (slot >= span->slot + span->n)
            span++;
        if (!candidates) head->n_budgeted += (uint64_t)weight;
        take_unit(s, head, span, slot - span->slot, candidates);
    }
}

// Takes candidates, and lists where each segment's begin. A batch is not in order of segments when
// a later scan added spans: then those of a segment are brought together.
static void take_candidates(const struct search *s, struct head *head, uint64_t want)
{
    const struct selector_params *p = &s->selector->params;
    const uint32_t first = head->n_candidates;
    const uint64_t n_before = head->n_tokens;
    uint32_t at = first;
    take_units(s, head, want, true);
    sort_candidates(head->candidates + first, head->n_candidates - first);
    // In the order of segments, so that the tokens of each lie together.
    for (uint32_t i = first; i < head->n_candidates; i++) {
        head->candidates[i].token = (uint32_t)head->n_tokens;
        head->n_tokens += head->candidates[i].n_rows;
    }
    head->scanned_keys += head->n_tokens - n_before;
    head->scanned_bytes += (head->n_tokens - n_before) * kv_code_bytes(p->stage2_bits, p->d_k);
    for (uint32_t i = 0; i < s->args.n_segments; i++) {
        head->segment_candidates[i] = at;
        while (at < head->n_candidates && head->candidates[at].segment == i)
            at++;
    }
    head->segment_candidates[s->args.n_segments] = at;
}

static void apply_threshold(const struct search *s, struct head *head)
{
    const struct threshold_grid grid = {.from = logf(s->args.threshold), .step = 1, .n = 1};
    const uint64_t least = (uint64_t)((double)s->args.floor_share * (double)head->budget);
    uint64_t n_rows;
    rank_count_above(s, head, &grid, &n_rows);
    if (n_rows < least) n_rows = least;
    if (n_rows < head->budget) head->budget = n_rows;
}

static void choose_units(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct call *call = arg;
    const struct search *s = call->s;
    const struct selector_params *p = &s->selector->params;
    (void)thread;
    for (size_t h = begin; h < end; h++) {
        struct head *head = &call->heads[h];
        if (head->everything) continue;
        if (p->kind == FATHOM_SELECTOR_CHUNK && head->n_calls == 1) take_outliers(s, head);
        if (s->args.threshold > 0 && head->n_calls == 1) apply_threshold(s, head);
        if (p->stage2_bits > 0) {
            const uint64_t want = count_candidates(p, head->budget);
            take_candidates(s, head, want > head->n_tokens ? want - head->n_tokens : 0);
        } else if (head->budget > head->n_budgeted) {
            take_units(s, head, head->budget - head->n_budgeted, false);
        }
    }
}

// ---- Tokens -------------------------------------------------------------------------------------

static void choose_tokens(const struct search *s, struct head *head)
{
    const struct kv_kernels *kv = &s->selector->params.kernels->kv;
    const uint64_t want = head->budget > head->n_budgeted ? head->budget - head->n_budgeted : 0;
    const size_t n_tokens = (size_t)head->n_tokens;
    const struct candidate *c = head->candidates;
    if (want == 0) return;
    struct cut cut = cut_find(kv, head->token_rank, NULL, n_tokens, want, head->places);
    const size_t n = cut_places(kv, &cut, head->token_rank, n_tokens, head->places);
    uint32_t n_runs = head->n_runs, n_rows = 0, next = UINT32_MAX; // of the last run; after it
    for (size_t i = 0; i < n; i++) {
        const uint32_t token = head->places[i];
        if (!cut_takes(&cut, head->token_rank[token], 1)) continue;
        while (token >= c->token + c->n_rows)
            c++;
        head->token_rank[token] = -INFINITY;
        head->n_budgeted++;
        // As add_run, but without a branch: whether a row goes on a run is a coin toss.
        const bool new_run = (token != next) | (token == c->token);
        n_rows = new_run ? 1 : n_rows + 1;
        n_runs += new_run;
        next = token + 1;
        head->runs[n_runs - 1] =
            (struct picked_run){c->segment, c->unit, c->row + next - c->token - n_rows, n_rows};
    }
    head->n_runs = n_runs;
}

static void add_everything(const struct search *s, struct head *head)
{
    for (uint32_t i = 0; i < s->args.n_segments; i++)
        for (uint32_t unit = 0; unit < head->n_units[i]; unit++)
            add_unit(s, head, i, unit, true);
    head->n_budgeted = head->n_visible - head->n_outliers;
}

static void finish_call(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct call *call = arg;
    const struct search *s = call->s;
    const struct selector_params *p = &s->selector->params;
    (void)thread;
    for (size_t h = begin; h < end; h++) {
        struct head *head = &call->heads[h];
        if (head->everything)
            add_everything(s, head);
        else if (p->stage2_bits > 0)
            choose_tokens(s, head);
        sort_runs(head->runs, head->n_runs);
        search_rest(s, head);
    }
}

// ---- Calls --------------------------------------------------------------------------------------

void search_cross(const struct call *call, size_t n_items, pool_range_fn fn, void *arg)
{
    if (call->thread == ALL_THREADS)
        pool_for(call->s->selector->params.pool, n_items, 1, fn, arg);
    else
        fn(arg, 0, n_items, call->thread);
}

// Up to the ranks.
static void begin_heads(struct call *call, const uint64_t *budget)
{
    for (uint32_t h = 0; h < call->n_heads; h++)
        begin_call(call->s, &call->heads[h], budget[h]);
    search_scan(call);
}

static void pick_heads(struct call *call, const uint64_t *budget, struct selection *out)
{
    begin_heads(call, budget);
    search_cross(call, call->n_heads, choose_units, call);
    if (call->s->selector->params.stage2_bits > 0) search_tokens(call);
    search_cross(call, call->n_heads, finish_call, call);
    for (uint32_t h = 0; h < call->n_heads; h++) {
        const struct head *head = &call->heads[h];
        out[h] = (struct selection){
            .runs = head->runs,
            .n_runs = head->n_runs,
            .n_rows = head->n_budgeted + head->n_outliers,
            .everything = head->everything,
            .n_candidates = head->n_tokens,
            .scanned_keys = head->scanned_keys,
            .scanned_bytes = head->scanned_bytes,
            .rest_bound = head->rest_bound,
            .rest_estimate = head->rest_estimate,
        };
    }
}

void search_pick(struct search *s, const uint64_t *budget, struct selection *out)
{
    struct call call = {s, s->heads, s->selector->params.n_kv_heads, ALL_THREADS};
    pick_heads(&call, budget, out);
}

void search_pick_head(struct search *s, uint32_t h, uint32_t thread, uint64_t budget,
                      struct selection *out)
{
    struct call call = {s, &s->heads[h], 1, thread};
    pick_heads(&call, &budget, out);
}

// ---- Surveys ------------------------------------------------------------------------------------

struct survey {
    struct call call;
    const struct threshold_grid *grid;
    uint64_t *rows;
};

static void survey_heads(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct survey *survey = arg;
    const struct search *s = survey->call.s;
    (void)thread;
    for (size_t h = begin; h < end; h++) {
        if (s->selector->params.kind == FATHOM_SELECTOR_CHUNK) take_outliers(s, &s->heads[h]);
        rank_count_above(s, &s->heads[h], survey->grid, survey->rows + h * survey->grid->n);
    }
}

void search_survey(struct search *s, const uint64_t *budget, const struct threshold_grid *grid,
                   uint64_t *rows)
{
    const uint32_t n_heads = s->selector->params.n_kv_heads;
    struct survey survey = {{s, s->heads, n_heads, ALL_THREADS}, grid, rows};
    begin_heads(&survey.call, budget);
    search_cross(&survey.call, n_heads, survey_heads, &survey);
}
