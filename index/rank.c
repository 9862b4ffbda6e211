// Ranks of scored representatives, over the query heads of a group.
//
// A head's scores count relative to the logarithm of its whole mass, so heads of different
// sharpness count alike; the group's value is the greatest, or the sum, of its heads'.

#include "index/rank.h"

#include <math.h>
#include <string.h>

void rank_level(const struct search *s, const struct head *head, struct level *level,
                uint32_t first_slot)
{
    const struct selector_params *p = &s->selector->params;
    const bool by_box = level->tops != NULL;
    const bool by_ball = p->rank_by != FATHOM_RANK_MEAN && level->tops == NULL;
    // One key in a group's whole ball makes it worth a scan, and a scan costs little.
    const float *reach = level == &head->coarse ? head->norm : head->reach;
    const float *weight = level->weight;
    float *rank = level->rank;
    const struct rank_args args = {
        .scores = (by_box ? level->tops : level->scores) + first_slot,
        .stride = level->stride,
        .radius = by_ball ? level->radius + first_slot : NULL,
        .reach = reach,
        .mass = head->log_mass,
        .weight = weight + first_slot,
        .group = s->n_heads,
        .sum = p->reduce_sum,
        .n = level->n_slots - first_slot,
        .out = rank + first_slot,
    };
    p->kernels->kv.rank_scores(&args);
}

void rank_masses(const struct search *s, struct head *head, uint32_t n_parts)
{
    const struct selector_params *p = &s->selector->params;
    const struct kv_kernels *kv = &p->kernels->kv;
    const struct level *coarse = &head->coarse;
    for (uint32_t g = 0; g < s->n_heads; g++) {
        const float masses[2] = {
            kv->log_sum_exp(coarse->scores + (size_t)g * coarse->stride, coarse->weight,
                            coarse->n_slots),
            kv->log_sum_exp(head->parts + (size_t)g * (head->fine.stride / REP_LANES), NULL,
                            n_parts),
        };
        head->log_mass[g] = kv->log_sum_exp(masses, NULL, 2);
    }
}

void rank_count_above(const struct search *s, const struct head *head,
                      const struct threshold_grid *grid, uint64_t *rows)
{
    enum { BATCH = 256 };
    const struct selector_params *p = &s->selector->params;
    const struct level *fine = &head->fine;
    float share[BATCH]; // logs
    memset(rows, 0, grid->n * sizeof *rows);
    for (uint32_t first = 0; first < fine->n_slots; first += BATCH) {
        const uint32_t left = fine->n_slots - first;
        const struct rank_args args = {
            .scores = fine->scores + first,
            .stride = fine->stride,
            .mass = head->log_mass,
            .weight = fine->weight + first,
            .group = s->n_heads,
            .sum = p->reduce_sum,
            .n = left < BATCH ? left : BATCH,
            .out = share,
        };
        p->kernels->kv.rank_scores(&args);
        for (uint32_t i = 0; i < args.n; i++) {
            const float weight = args.weight[i];
            if (!(weight > 0)) continue;
            const float above = args.out[i] + logf(weight) - grid->from;
            if (!(above > 0)) continue;
            const float at = ceilf(above / grid->step) - 1; // the highest threshold below it
            rows[at < (float)grid->n ? (uint32_t)at : grid->n - 1] += (uint64_t)weight;
        }
    }
    for (uint32_t i = grid->n; i-- > 1;)
        rows[i - 1] += rows[i];
}
