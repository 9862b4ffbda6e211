// Takes units of a pick back: what was to be read of them counts as not picked again, and the
// stand-in for attention covers them like other units of which nothing was picked.

#include "index/search.h"

#include <math.h>

// Units [n] of all heads, ascending, as one head looks at them.
struct left {
    const struct left_unit *units;
    uint32_t n;
    uint32_t kv_head;
};

static bool is_before(const struct left_unit *a, const struct left_unit *b)
{
    if (a->kv_head != b->kv_head) return a->kv_head < b->kv_head;
    return a->segment != b->segment ? a->segment < b->segment : a->unit < b->unit;
}

// Place of the head's first one that is not before this unit.
static uint32_t find_from(const struct left *left, uint32_t segment, uint32_t unit)
{
    const struct left_unit wanted = {left->kv_head, segment, unit};
    uint32_t begin = 0, end = left->n;
    while (begin < end) {
        const uint32_t middle = begin + (end - begin) / 2;
        if (is_before(&left->units[middle], &wanted))
            begin = middle + 1;
        else
            end = middle;
    }
    return begin;
}

// Whether place i is of units below unit_end of a segment.
static bool is_below(const struct left *left, uint32_t i, uint32_t segment, uint32_t unit_end)
{
    return i < left->n && left->units[i].kv_head == left->kv_head &&
           left->units[i].segment == segment && left->units[i].unit < unit_end;
}

// Rows of a unit that an earlier pick took, and has read.
static bool any_picked(const struct search *s, const struct head *head, uint32_t segment,
                       uint32_t begin, uint32_t end)
{
    for (uint32_t row = begin; row < end; row++)
        if (search_was_picked(s, head, segment, row)) return true;
    return false;
}

// The slot is as it was before the pick.
static void leave_slot(const struct search *s, struct head *head, const struct span *span,
                       uint32_t unit)
{
    const uint32_t slot = span->slot + unit - span->first;
    const uint32_t *begin = (const uint32_t *)index_at(view_head(head, span->segment),
                                                       s->layouts[span->segment].unit_begin) +
                            unit;
    const float n_rows = (float)search_count_visible(s, head, span->segment, begin[0], begin[1]);
    head->fine.weight[slot] = n_rows;
    if (!s->selector->params.estimate || is_masked(s, head, span->segment)) return;
    if (!any_picked(s, head, span->segment, begin[0], begin[1])) head->whole[slot] = n_rows;
}

// Of a candidate its tokens speak: those of this pick rank among the others again.
static void leave_tokens(const struct search *s, struct head *head, const struct candidate *c)
{
    const struct index_view *view = &head->views[c->segment];
    const uint16_t *positions = index_at(view->index, s->layouts[c->segment].positions);
    float *rank = head->token_rank + c->token;
    head->fine.weight[c->slot] = head->whole[c->slot] = 0;
    for (uint32_t i = 0; i < c->n_rows; i++)
        if (positions[c->row + i] < view->n_visible &&
            !search_was_picked(s, head, c->segment, c->row + i))
            rank[i] = 0;
}

static void leave_units(const struct search *s, struct head *head, const struct left *left)
{
    for (uint32_t i = 0; i < head->fine.n_spans; i++) {
        const struct span *span = &head->fine.spans[i];
        for (uint32_t at = find_from(left, span->segment, span->first);
             is_below(left, at, span->segment, span->first + span->n); at++)
            leave_slot(s, head, span, left->units[at].unit);
    }
    for (uint32_t i = 0; i < head->n_candidates; i++) {
        const struct candidate *c = &head->candidates[i];
        if (is_below(left, find_from(left, c->segment, c->unit), c->segment, c->unit + 1))
            leave_tokens(s, head, c);
    }
}

struct leaving {
    struct search *search;
    const struct left_unit *units;
    uint32_t n;
};

static void leave_heads(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct leaving *l = arg;
    (void)thread;
    for (size_t h = begin; h < end; h++) {
        const struct left left = {l->units, l->n, (uint32_t)h};
        struct head *head = &l->search->heads[h];
        leave_units(l->search, head, &left);
        search_rest(l->search, head);
    }
}

void search_leave(struct search *s, const struct left_unit *units, uint32_t n)
{
    struct leaving leaving = {s, units, n};
    pool_for(s->selector->params.pool, s->selector->params.n_kv_heads, 1, leave_heads, &leaving);
}
