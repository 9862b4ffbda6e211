// Ranks of scored representatives, over the query heads of a group.
//
// A head's scores count relative to the logarithm of its whole mass, so heads of different
// sharpness count alike; the group's value is the greatest, or the sum, of its heads'.

#include "index/rank.h"

#include <math.h>
#include <string.h>

enum { CHUNK = 256 }; // slots ranked at a time

// The value of n slots by one query head: log of what share of the mass a token may have.
static void value_slots(const struct search *s, const struct head *head, const struct level *level,
                        uint32_t slot, uint32_t n, uint32_t g, float *value)
{
    const struct selector_params *p = &s->selector->params;
    const bool by_mass = p->threshold > 0 && level == &head->fine;
    const float *score = level->scores + (size_t)g * level->stride + slot;
    const float *radius = level->radius + slot;
    const float mass = head->log_mass[g];
    const float reach =
        p->rank_by == FATHOM_RANK_MEAN || by_mass || level->tops != NULL ? 0 : head->norm[g];
    if (level->tops != NULL && !by_mass) score = level->tops + (size_t)g * level->stride + slot;
    for (uint32_t i = 0; i < n; i++)
        value[i] = score[i] + reach * radius[i] - mass;
}

static void rank_slots(const struct search *s, const struct head *head, struct level *level,
                       uint32_t slot, uint32_t n)
{
    const struct selector_params *p = &s->selector->params;
    float value[CHUNK];
    float sum[CHUNK];
    float *rank = level->rank + slot;
    const float *weight = level->weight + slot;
    value_slots(s, head, level, slot, n, 0, rank);
    for (uint32_t g = 1; g < p->group; g++) {
        value_slots(s, head, level, slot, n, g, value);
        for (uint32_t i = 0; i < n; i++)
            rank[i] = value[i] > rank[i] ? value[i] : rank[i];
    }
    if (p->reduce_sum) {
        memset(sum, 0, sizeof sum);
        for (uint32_t g = 0; g < p->group; g++) {
            value_slots(s, head, level, slot, n, g, value);
            for (uint32_t i = 0; i < n; i++)
                sum[i] += expf(value[i] - rank[i]);
        }
        for (uint32_t i = 0; i < n; i++)
            rank[i] += logf(sum[i]);
    }
    for (uint32_t i = 0; i < n && p->threshold > 0 && level == &head->fine; i++)
        rank[i] += logf(weight[i]);
    for (uint32_t i = 0; i < n; i++)
        rank[i] = weight[i] > 0 ? rank[i] : -INFINITY;
}

void rank_level(const struct search *s, const struct head *head, struct level *level,
                uint32_t first_slot)
{
    for (uint32_t slot = first_slot; slot < level->n_slots; slot += CHUNK) {
        const uint32_t left = level->n_slots - slot;
        rank_slots(s, head, level, slot, left < CHUNK ? left : CHUNK);
    }
}

void rank_masses(const struct search *s, struct head *head)
{
    const struct selector_params *p = &s->selector->params;
    for (uint32_t g = 0; g < p->group; g++) {
        float parts[2] = {-INFINITY, -INFINITY};
        const struct level *levels[2] = {&head->coarse, &head->fine};
        for (uint32_t i = 0; i < 2; i++)
            parts[i] = p->kernels->kv.log_sum_exp(levels[i]->scores + (size_t)g * levels[i]->stride,
                                                  levels[i]->weight, levels[i]->n_slots);
        head->log_mass[g] = p->kernels->kv.log_sum_exp(parts, NULL, 2);
    }
}

uint64_t rank_count_above(const struct search *s, const struct level *level, uint32_t first_slot)
{
    const float threshold = s->selector->params.threshold;
    const float least = threshold > 0 ? logf(threshold) : INFINITY;
    uint64_t n_rows = 0;
    for (uint32_t slot = first_slot; slot < level->n_slots; slot++)
        if (level->rank[slot] > least) n_rows += (uint64_t)level->weight[slot];
    return n_rows;
}
