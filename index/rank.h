// Ranks of scored representatives.

#ifndef FATHOM_INDEX_RANK_H
#define FATHOM_INDEX_RANK_H

#include "index/search.h"

// Each query head's mass, by the representatives that speak for rows now: the coarse ones, and
// n_parts sums over fine ones.
void rank_masses(const struct search *s, struct head *head, uint32_t n_parts);
// Ranks slots first_slot .. n_slots - 1 of a level of the head.
void rank_level(const struct search *s, const struct head *head, struct level *level,
                uint32_t first_slot);
// rows [grid->n]: of units, not taken yet, that hold more of the head's mass, by their means, than
// each threshold.
void rank_count_above(const struct search *s, const struct head *head,
                      const struct threshold_grid *grid, uint64_t *rows);

#endif
