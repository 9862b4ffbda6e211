// Contract: selectors. A selector groups the rows of a segment into units when the segment is
// sealed, keeps representatives of them, and picks rows for a query.
//
// An index describes one segment of one layer and KV head. It is one block of memory without
// pointers, immutable after build: saving it is writing it, loading it is reading it. Rows are
// numbered in *unit order*: unit u of a segment holds rows unit_begin[u] .. unit_begin[u + 1] - 1.
//
// A selector is immutable after open and may be used by many threads; a search belongs to one
// sequence. Nothing but open allocates.

#ifndef FATHOM_SRC_IFACE_SELECTOR_H
#define FATHOM_SRC_IFACE_SELECTOR_H

#include "fathom/fathom.h"
#include "src/base/pool.h"
#include "src/iface/kernels.h"

struct selector_params {
    int32_t kind; // enum fathom_selector
    uint32_t d_k;
    uint32_t d_v;
    uint32_t n_kv_heads;
    uint32_t group;          // query heads that share a KV head
    uint32_t n_queries_max;  // tokens that one search is for; times group at most 256; 0: one
    float scale;             // of the logits
    uint32_t unit_tokens;    // of a unit; of cluster: on average; 0: the selector's default
    bool index_q8;           // representatives in 8 bit, else f16
    int32_t rank_by;         // enum fathom_rank_by
    uint32_t stage2_bits;    // 0: none; 8 or 4: token scores of the candidates
    bool stage2_in_rows;     // of segments of segment_tokens_max rows the rows' own K codes serve
                             // (their bits are stage2_bits); of others the index keeps keys
    bool estimate;           // keep value sums
    bool reduce_sum;         // over the group: sum of probabilities; else their maximum
    float candidates;        // of stage 2: times the budget, at least 4096 rows; default 2
    uint32_t n_segments_max; // segments of a sequence, both sizes together
    uint32_t segment_tokens_max;
    uint64_t n_rows_max;                // rows of a sequence's segments, masked ones included
    const struct kernel_table *kernels; // borrowed until close
    struct pool *pool;                  // likewise; searches run on it
};

// One KV head's rows of a segment about to be sealed, in the order of their positions.
struct selector_rows {
    const float *k;       // [n_rows, d_k], as attention reads them
    uint32_t n_rows;      // 1 .. segment_tokens_max
    bool merged;          // worth the selector's full effort; else a quick grouping will do
    const float *queries; // [n_queries, group, d_k], a sample of the segment's own; or NULL
    uint32_t n_queries;
    const float *received; // [n_rows] attention received in the window, or NULL
};

// Where an index and its segment's keys are, as a search sees them.
struct index_view {
    const void *index;
    uint32_t n_rows;
    // Of keys in rows only: K codes of unit u's rows lie together at
    // keys + unit_begin[u] * keys_row_bytes.
    const uint8_t *keys;
    size_t keys_row_bytes; // K row + V row
    const float *k_min;    // [d_k]
    const float *k_step;
    uint32_t n_visible; // positions (of the segment) from here on are masked; usually n_rows
};

// Rows row .. row + n_rows - 1, in unit order, of one segment; all of one unit.
struct picked_run {
    uint32_t segment;
    uint32_t unit;
    uint32_t row;
    uint32_t n_rows;
};

// What a search has picked for one KV head so far. Runs ascend by (segment, row), are disjoint, and
// hold no masked row. rest_*[g]: log of the softmax mass (sum of exp(logit)) of all rows that are
// not picked: at most, and about. -infinity: none.
struct selection {
    struct picked_run *runs;
    uint32_t n_runs;
    uint64_t n_rows;       // picked, outliers included
    bool everything;       // the pick took all rows, whatever their scores
    uint64_t n_candidates; // rows that stage 2 scored
    uint64_t scanned_keys; // representatives, coarse ones too, and stage-2 keys that were read
    uint64_t scanned_bytes;
    const float *rest_bound;    // [group]
    const float *rest_estimate; // [group]
};

// A unit of which rows were picked but not read.
struct left_unit {
    uint32_t kv_head;
    uint32_t segment;
    uint32_t unit;
};

struct search_args {
    const float *q;     // [n_queries, n_kv_heads, group, d_k], as attention asks, not scaled
    uint32_t n_queries; // a row ranks as the query head ranks it that wants it most; 0: one
    const struct index_view *views; // [n_kv_heads, n_segments]
    uint32_t n_segments;
    bool skip_rest;    // rest_* are not wanted, and stay infinity: they cost about half a search;
                       // must be set for more than one query
    float threshold;   // 0: top-k by the budget. Else the first pick takes as many rows as lie in
                       // units that hold more than this share of the mass, by their means; at most
                       // the budget, and
    float floor_share; // at least this share of the budget; later picks go by their budgets alone
};

// Thresholds exp(from + i * step), i = 0 .. n - 1; step > 0.
struct threshold_grid {
    float from;
    float step;
    uint32_t n;
};

struct selector;
struct search;

struct selector_ops {
    fathom_status (*open)(const struct selector_params *params, struct selector **selector);
    void (*close)(struct selector **selector);

    // Sizes for a segment of n_rows rows: the index, and what a build needs of private scratch.
    size_t (*index_bytes)(const struct selector *selector, uint32_t n_rows);
    size_t (*scratch_bytes)(const struct selector *selector, uint32_t n_rows);

    // Groups the rows. order[i] is the position (0 .. n_rows - 1) of row i in unit order. Depends
    // on nothing but its arguments, to the bit.
    void (*group)(const struct selector *selector, const struct selector_rows *rows, void *index,
                  uint32_t *order, void *scratch);
    // Finishes an index after `group`: representatives, radii, value sums, stage-2 keys, of the
    // rows as attention will read them (decoded, so that bounds hold for these). k [n_rows, d_k]
    // and v [n_rows, d_v] are in unit order.
    void (*represent)(const struct selector *selector, const float *k, const float *v,
                      uint32_t n_rows, void *index, void *scratch);

    // What an index says: its units, and the positions of its rows.
    uint32_t (*n_units)(const void *index);
    const uint32_t *(*unit_begins)(const void *index); // [n_units + 1]; the last is n_rows
    const uint16_t *(*positions)(const void *index);   // [n_rows]
    // ECORRUPT names what is wrong in an index that came from a file.
    fathom_status (*check)(const struct selector *selector, const void *index, size_t bytes,
                           uint32_t n_rows);

    // Most units that a segment of n_rows rows can have.
    uint32_t (*units_max)(const struct selector *selector, uint32_t n_rows);

    // A search's memory, for sequences up to the params' limits: reserved, and real as far as
    // picks have made it so; search_bytes is all of it.
    fathom_status (*search_open)(const struct selector *selector, struct search **search);
    size_t (*search_bytes)(const struct search *search);
    void (*search_close)(struct search **search);
    // Scores. The views and q must stay until the last pick; nothing is picked yet.
    void (*begin)(struct search *search, const struct search_args *args);
    // Picks on, best first, until head h holds budget[h] rows (or every row); fills out
    // [n_kv_heads], whose `runs` are only those that this call adds, and valid until the next call.
    // A budget below what is picked adds nothing. UINT64_MAX picks all.
    void (*pick)(struct search *search, const uint64_t *budget, struct selection *out);
    // The same for one head, to the bit, by the calling thread alone, which is that one of the
    // pool. The pool's threads may do so at the same time, each for another head.
    void (*pick_head)(struct search *search, uint32_t head, uint32_t thread, uint64_t budget,
                      struct selection *out);
    // In place of the first pick, after which there is none; begin's threshold must be above 0, and
    // no budget UINT64_MAX: the rows [n_kv_heads, grid->n] that lie in units above each threshold,
    // floor and budget not applied.
    void (*survey)(struct search *search, const uint64_t *budget, const struct threshold_grid *grid,
                   uint64_t *rows);
    // After the last pick: what it picked of n units, ascending by (KV head, segment, unit), was
    // not read after all; none is of a head that picked everything. The selections' rest_* take
    // them in, and so does the estimate, but without stage 2 for units of which earlier picks took
    // rows.
    void (*leave)(struct search *search, const struct left_unit *units, uint32_t n);
    // Partial, with the units' mean values, over the rows that were not picked: those that stage 2
    // scored, and those of units that were scored and of which nothing was picked. Without segments
    // that are masked. o [n_kv_heads, group, d_v], lse [n_kv_heads, group]. Of a search for one
    // query, after the last pick; only begin may follow.
    void (*estimate)(struct search *search, float *o, float *lse);
};

#endif
