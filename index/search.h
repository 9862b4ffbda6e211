// A search's memory, and the steps that its files share. Not seen outside index/.
//
// All levels of detail work on slots: places in arrays, one for each representative that was
// scored. A span is a run of representatives of one segment and their slots. The coarse level has
// one span a segment; the fine level has one a segment as well, or, when a search goes by two
// levels, one for each group that the coarse level chose.

#ifndef FATHOM_INDEX_SEARCH_H
#define FATHOM_INDEX_SEARCH_H

#include "index/index_layout.h"

enum { SCORE_BATCH = 128 }; // tokens that the second stage scores at once

struct selector {
    struct selector_params params; // completed: no zero that means a default
};

struct span {
    uint32_t segment;
    uint32_t first; // unit, or group; a multiple of REP_LANES
    uint32_t n;
    uint32_t slot;
};

struct level {
    uint32_t n_slots;
    uint32_t n_spans;
    uint32_t n_scored; // spans whose scores are there
    uint32_t stride;   // slots there is room for
    struct span *spans;
    float *scores; // [heads, stride] <q, representative>
    float *tops;   // [heads, stride] bound by the box, or NULL
    float *radius; // [stride]
    float *spread; // [stride]; only where the rest or the estimate is wanted
    float *weight; // [stride] visible rows for which only the representative speaks
    float *rank;   // [stride]; -infinity: not to be taken (any more)
};

// A unit whose tokens the second stage scores.
struct candidate {
    uint32_t segment;
    uint32_t unit;
    uint32_t row;
    uint32_t n_rows;
    uint32_t slot;
    uint32_t token; // its rows' place in the token arrays
};

// The search of one KV head. Heads in the arrays' shapes, [heads], are the query heads that share
// it, of one query after another.
struct head {
    const struct index_view *views; // [n_segments]
    struct level coarse;
    struct level fine;
    float *whole;      // [fine.stride] visible rows of units that were neither picked nor are
                       // candidates; 0 where the estimate is off
    uint32_t *n_units; // [n_segments]
    float *q;          // [heads, d_k], times the logits' scale
    void *packed_q;
    void *packed_abs; // of |q|, for boxes
    float *slack;     // [heads] of packed_q
    float *slack_abs; // [heads] of packed_abs
    float *norm;      // [heads] |q|, rounded up
    float *reach;     // [heads] how far along q a unit's radius counts when it is ranked
    float *log_mass;  // [heads] about, of all rows
    float *parts;     // [heads, fine.stride / REP_LANES] logs of masses of the first scan's items
    struct candidate *candidates;
    uint32_t n_candidates;
    uint32_t *segment_candidates; // [n_segments + 1] first of a segment, in the last batch
    uint64_t n_tokens;
    float *token_scores; // [group, n_rows_max]; only where the rest or the estimate is wanted
    float *token_rank;   // [n_rows_max]; -infinity: picked or masked
    float *token_error;  // [n_segments, heads]
    uint32_t *places;    // [fine.stride, and n_rows_max where there are tokens] of what is taken
    struct picked_run *runs;
    uint32_t n_runs;
    uint64_t *picked; // bits of rows picked by earlier calls; filled from the second call on
    float *rest_bound;
    float *rest_estimate;

    uint64_t n_visible;
    uint64_t n_scored_rows; // visible rows of the spans of the fine level
    uint64_t n_budgeted;    // picked rows that count to the budget
    uint64_t n_outliers;    // and those that do not
    uint64_t need;          // rows that will be picked, or be candidates
    uint64_t budget;        // of this call, threshold applied
    uint64_t scanned_keys;
    uint64_t scanned_bytes;
    uint32_t n_calls; // of pick
    bool two_level;
    bool everything; // this call picks all that is left
};

struct search {
    const struct selector *selector;
    struct search_args args;
    uint32_t n_heads;             // query heads of a KV head: group, times the queries
    struct index_layout *layouts; // [n_segments]
    uint64_t *first_row;          // [n_segments] place of a segment's rows in `picked`
    uint32_t *n_rows;             // [n_segments]
    struct head *heads;           // [n_kv_heads]
    uint8_t *row_queries;         // [threads][packed_query_bytes]
    size_t row_query_bytes;
    float *row_scores; // [threads][heads, SCORE_BATCH]
    size_t bytes;      // of the reserved memory that all arrays lie in
    void *memory;
};

// A pick or survey: the heads that it is for, and who works on it.
struct call {
    struct search *s;
    struct head *heads; // [n_heads]
    uint32_t n_heads;
    uint32_t thread; // of the pool, that does it all; ALL_THREADS: these share it
};
enum { ALL_THREADS = 0x7fffffff };

static inline const struct index_head *view_head(const struct head *head, uint32_t segment)
{
    return head->views[segment].index;
}
static inline bool is_masked(const struct search *s, const struct head *head, uint32_t segment)
{
    return head->views[segment].n_visible < s->n_rows[segment];
}

// Whether a call before the latest one picked the row.
static inline bool search_was_picked(const struct search *s, const struct head *head,
                                     uint32_t segment, uint32_t row)
{
    const uint64_t bit = s->first_row[segment] + row;
    return head->n_calls > 1 && (head->picked[bit / 64] >> bit % 64 & 1) != 0;
}

// search_open.c
fathom_status search_open(const struct selector *selector, struct search **search);
size_t search_bytes(const struct search *search);
void search_close(struct search **search);

// search_scan.c
void search_begin(struct search *s, const struct search_args *args);
// Scores representatives, of more rows than each head of the call needs, or of all; not of heads
// that are picked wholly.
void search_scan(struct call *call);

// Rows begin .. end - 1 of a segment that are not masked.
uint32_t search_count_visible(const struct search *s, const struct head *head, uint32_t segment,
                              uint32_t begin, uint32_t end);
// search_spans.c: fills the slots of a span of a level; and asks for what that will read.
void search_score_span(const struct search *s, struct head *head, bool coarse,
                       const struct span *span);
void search_fetch_span(const struct search *s, const struct head *head, bool coarse,
                       const struct span *span);

// search_tokens.c: scores the tokens of the last batch of candidates of each head of the call.
void search_tokens(struct call *call);

// search_pick.c
void search_pick(struct search *s, const uint64_t *budget, struct selection *out);
void search_pick_head(struct search *s, uint32_t h, uint32_t thread, uint64_t budget,
                      struct selection *out);
// Items 0 .. n_items - 1, by whoever works on the call.
void search_cross(const struct call *call, size_t n_items, pool_range_fn fn, void *arg);
void search_survey(struct search *s, const uint64_t *budget, const struct threshold_grid *grid,
                   uint64_t *rows);

// search_leave.c
void search_leave(struct search *s, const struct left_unit *units, uint32_t n);

// coverage.c
void search_rest(const struct search *s, struct head *head);
// What a unit's mean weight gains by the mean squared distance of its keys, per unit of that.
float search_spread_gain(const struct search *s, const struct head *head, uint32_t g);
// Absolute error of a representative's score for query head g, bounds included.
float score_error(const struct head *head, uint32_t segment, uint32_t g);

// stand_in.c
void search_estimate(struct search *s, float *o, float *lse);

#endif
