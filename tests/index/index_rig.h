// A sequence of segments with their indexes, as the engine would hold them, and the naive truth
// about a query's scores: what the tests of selectors share.

#ifndef FATHOM_TESTS_INDEX_INDEX_RIG_H
#define FATHOM_TESTS_INDEX_INDEX_RIG_H

#include "tests/check.h"

#include "index/selectors.h"
#include "src/base/rng.h"

enum { RIG_SEGMENTS = 160, RIG_HEADS = 4 };

enum rig_keys {
    RIG_NORMAL,  // independent
    RIG_TIGHT,   // about a few centres, very close to them
    RIG_LOOSE,   // about centres, and one outlier in 50
    RIG_HUGE,    // one key in 20 a hundred times as long
    RIG_SAME,    // all equal
    RIG_SHIFTED, // loose, far from zero
    RIG_KINDS,
};

struct rig_segment {
    uint32_t n_rows;
    uint32_t n_visible;
    float *given;   // [n_rows, d_k] by position
    float *k;       // [n_rows, d_k] in unit order, as attention reads them
    float *v;       // [n_rows, d_v] in unit order
    float *range;   // [2, d_k] k_min and k_step of the codes
    uint8_t *codes; // [n_rows, row_bytes] of stage2_in_rows
    uint32_t *order;
    void *index;
};

struct rig {
    struct selector_params params;
    struct kernel_table kernels;
    struct pool *pool;
    struct selector *selector;
    struct search *search;
    uint32_t n_segments;
    struct rig_segment segments[RIG_HEADS][RIG_SEGMENTS];
    struct index_view views[RIG_HEADS * RIG_SEGMENTS];
    uint64_t budgets[RIG_HEADS];
    struct selection picked[RIG_HEADS];
    size_t row_bytes;
    float *q;           // [n_queries_max, n_kv_heads, group, d_k]
    uint32_t n_queries; // of searches, as in search_args; rig_open sets all three to 0
    float threshold;
    float floor_share;
    bool by_heads; // picks each on one thread of the pool; rig_open sets it to false
};

// Parameters that a test may change: cluster, ball, 8-bit representatives, no second stage.
struct selector_params rig_params(uint32_t n_kv_heads, uint32_t group, uint32_t d);
// isa as of cpu_kernels_init; n_threads of the pool.
void rig_open(struct rig *rig, const struct selector_params *params, uint32_t isa,
              uint32_t n_threads);
void rig_close(struct rig *rig);

// The next segment of all heads, with keys of a kind, or as given [n_kv_heads, n_rows, d_k].
void rig_add(struct rig *rig, struct rng *rng, enum rig_keys kind, uint32_t n_rows, bool merged);
void rig_add_keys(struct rig *rig, struct rng *rng, const float *k, const float *received,
                  uint32_t n_rows, bool merged);
void rig_fill_keys(struct rng *rng, enum rig_keys kind, float *k, uint32_t n_rows, uint32_t d);

// q [n_queries, n_kv_heads, group, d_k], copied. What follows about scores is of one query.
void rig_begin(struct rig *rig, const float *q);
void rig_pick(struct rig *rig, uint64_t budget);

// In double: scale * <q[head, g], key at a row of a segment>.
double rig_score(const struct rig *rig, uint32_t head, uint32_t g, uint32_t segment, uint32_t row);
bool rig_visible(const struct rig *rig, uint32_t head, uint32_t segment, uint32_t row);
uint64_t rig_count_visible(const struct rig *rig, uint32_t head);

// Which rows have been picked since rig_begin: marks the runs of the last pick in seen (by segment
// and row, RIG_SEGMENTS pointers' worth laid end to end), and fails if a run is out of order, of
// more than one unit, masked, or was seen before. Returns the rows marked.
uint64_t rig_mark(const struct rig *rig, uint32_t head, uint8_t *seen);
uint64_t rig_count_rows(const struct rig *rig);
// Log of the mass of the rows that are not marked, and of all, for one query head.
void rig_masses(const struct rig *rig, uint32_t head, uint32_t g, const uint8_t *seen, double *rest,
                double *all);

#endif
