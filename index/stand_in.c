// A partial of attention that stands in for what was not picked (the estimation zone of RetroInfer,
// Chen et al. 2025, arXiv 2505.02922; here tokens of which a second stage knows the scores count by
// these).
//
// Of a unit of which no token was scored, the mean weight of its keys is that of coverage.c. Of a
// candidate, the tokens that were not picked weigh what they scored. Either way they weigh for the
// unit's mean value.
//
// No pick follows, so the scores give way to the shares that they come to, and ranks to weights.

#include "index/search.h"

#include <math.h>
#include <string.h>

// Of one query head: scores x [n] that become shares of their sum, and weights w >= 0.
struct items {
    float *x;
    const float *w;
    size_t n;
};

// Returns the log of the sum of w exp(x).
static float share_out(const struct kernel_table *kernels, const struct items *items)
{
    float *x = items->x;
    const float *w = items->w;
    const float lse = kernels->kv.log_sum_exp(x, w, items->n);
    float sum = 0;
    for (size_t i = 0; i < items->n; i++)
        x[i] = w[i] > 0 ? x[i] : -INFINITY;
    kernels->softmax(x, 1, items->n);
    for (size_t i = 0; i < items->n; i++) {
        x[i] *= w[i];
        sum += x[i];
    }
    for (size_t i = 0; i < items->n && sum > 0; i++)
        x[i] /= sum;
    return lse;
}

static void scale(const struct items *items, float by)
{
    for (size_t i = 0; i < items->n; i++)
        items->x[i] *= by;
}

// Weights of the slots for query head g, and of tokens, for all.
static void weigh_slots(const struct search *s, struct head *head, uint32_t g)
{
    const float gain = search_spread_gain(s, head, g);
    for (uint32_t i = 0; i < head->fine.n_slots; i++)
        head->fine.rank[i] = head->whole[i] * (1 + gain * head->fine.spread[i]);
}

static void weigh_tokens(const struct search *s, struct head *head)
{
    for (uint32_t i = 0; i < head->n_candidates; i++) {
        const struct candidate *c = &head->candidates[i];
        float *rank = head->token_rank + c->token;
        const bool masked = is_masked(s, head, c->segment); // its values are of masked rows too
        for (uint32_t j = 0; j < c->n_rows; j++)
            rank[j] = rank[j] > -INFINITY && !masked ? 1.0f : 0.0f;
    }
}

static void share_head(const struct search *s, struct head *head, float *lse)
{
    const struct selector_params *p = &s->selector->params;
    weigh_tokens(s, head);
    for (uint32_t g = 0; g < p->group; g++) {
        const struct items slots = {head->fine.scores + (size_t)g * head->fine.stride,
                                    head->fine.rank, head->fine.n_slots};
        const struct items tokens = {head->token_scores + g * (size_t)p->n_rows_max,
                                     head->token_rank, head->n_tokens};
        weigh_slots(s, head, g);
        const float parts[2] = {share_out(p->kernels, &slots), share_out(p->kernels, &tokens)};
        lse[g] = p->kernels->kv.log_sum_exp(parts, NULL, 2);
        if (lse[g] == -INFINITY) continue;
        scale(&slots, expf(parts[0] - lse[g]));
        scale(&tokens, expf(parts[1] - lse[g]));
    }
}

static const uint16_t *unit_values(const struct search *s, const struct head *head,
                                   uint32_t segment, uint32_t unit)
{
    const uint16_t *values = index_at(view_head(head, segment), s->layouts[segment].values);
    return values + (size_t)unit * s->selector->params.d_v;
}

static void blend_units(const struct search *s, const struct head *head, float *o)
{
    const struct selector_params *p = &s->selector->params;
    for (uint32_t i = 0; i < head->fine.n_spans; i++) {
        const struct span *span = &head->fine.spans[i];
        p->kernels->kv.blend_rows(head->fine.scores + span->slot, head->fine.stride, p->group,
                                  unit_values(s, head, span->segment, span->first), span->n, p->d_v,
                                  o);
    }
}

static void blend_candidates(const struct search *s, const struct head *head, float *o)
{
    const struct selector_params *p = &s->selector->params;
    for (uint32_t i = 0; i < head->n_candidates; i++) {
        const struct candidate *c = &head->candidates[i];
        const uint16_t *values = unit_values(s, head, c->segment, c->unit);
        for (uint32_t g = 0; g < p->group; g++) {
            const float *shares = head->token_scores + g * (size_t)p->n_rows_max + c->token;
            float share = 0;
            for (uint32_t j = 0; j < c->n_rows; j++)
                share += shares[j];
            if (share > 0)
                p->kernels->kv.blend_rows(&share, 1, 1, values, 1, p->d_v, o + (size_t)g * p->d_v);
        }
    }
}

struct stand_in {
    struct search *s;
    float *o;
    float *lse;
};

static void estimate_heads(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct stand_in *to = arg;
    const struct selector_params *p = &to->s->selector->params;
    (void)thread;
    for (size_t h = begin; h < end; h++) {
        struct head *head = &to->s->heads[h];
        float *o = to->o + h * p->group * p->d_v;
        float *lse = to->lse + h * p->group;
        memset(o, 0, (size_t)p->group * p->d_v * sizeof *o);
        for (uint32_t g = 0; g < p->group; g++)
            lse[g] = -INFINITY;
        if (head->everything) continue;
        share_head(to->s, head, lse);
        blend_units(to->s, head, o);
        blend_candidates(to->s, head, o);
    }
}

void search_estimate(struct search *s, float *o, float *lse)
{
    struct stand_in to = {s, o, lse};
    pool_for(s->selector->params.pool, s->selector->params.n_kv_heads, 1, estimate_heads, &to);
}
