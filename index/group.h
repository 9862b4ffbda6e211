// Grouping: which rows of a segment make a unit, and in what order the units lie. Each function
// fills the head, unit_begin, positions, outliers and block_rows of an index.

#ifndef FATHOM_INDEX_GROUP_H
#define FATHOM_INDEX_GROUP_H

#include "index/index_layout.h"

size_t group_scratch_bytes(const struct selector_params *params, uint32_t n_rows);
// order and scratch as in selector_ops.group.
void group_rows(const struct selector_params *params, const struct selector_rows *rows, void *index,
                uint32_t *order, void *scratch);

// Units of consecutive tokens: flat, chunk, block.
void group_runs(const struct selector_params *params, const struct selector_rows *rows,
                const struct index_layout *layout, void *index);

// Units of similar keys.
size_t group_cluster_scratch_bytes(const struct selector_params *params, uint32_t n_rows);
void group_cluster(const struct selector_params *params, const struct selector_rows *rows,
                   const struct index_layout *layout, void *index, void *scratch);

// Orders n vectors so that any COARSE_UNITS that begin at a multiple of COARSE_UNITS are similar.
// order: in any permutation of 0 .. n - 1, out. projections: [n] to work in.
void group_similar(const float *vectors, uint32_t d, uint32_t *order, uint32_t n,
                   float *projections);

#endif
