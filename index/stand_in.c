// A partial of attention that stands in for what was not picked (the estimation zone of RetroInfer,
// Chen et al. 2025, arXiv 2505.02922; here tokens of which a second stage knows the scores count by
// these).
//
// Of a unit of which no token was scored, the mean weight of its keys is that of coverage.c. Of a
// candidate, the tokens that were not picked weigh what they scored. Either way they weigh for the
// unit's mean value.

#include "index/search.h"

#include <math.h>
#include <string.h>

enum { PIECE = 64, TOKENS = 256 };

// Of query head g: what was added up so far, o [d_v] normalised.
struct partial {
    const struct selector_params *params;
    float *o;
    float lse;
};

// Takes in n items of weights w >= 0 and scores x, which are overwritten with their shares of the
// whole.
static void take_in(struct partial *to, float *x, const float *w, uint32_t n)
{
    const struct kernel_table *kernels = to->params->kernels;
    const float parts[2] = {to->lse, kernels->kv.log_sum_exp(x, w, n)};
    float sum = 0;
    if (parts[1] == -INFINITY) {
        memset(x, 0, n * sizeof *x);
        return;
    }
    const float lse = kernels->kv.log_sum_exp(parts, NULL, 2);
    const float kept = expf(to->lse - lse), share = expf(parts[1] - lse);
    for (uint32_t i = 0; i < n; i++)
        x[i] = w[i] > 0 ? x[i] : -INFINITY;
    kernels->softmax(x, 1, n);
    for (uint32_t i = 0; i < n; i++) {
        x[i] *= w[i];
        sum += x[i];
    }
    for (uint32_t i = 0; i < n; i++)
        x[i] *= share / sum;
    for (uint32_t c = 0; c < to->params->d_v; c++)
        to->o[c] *= kept;
    to->lse = lse;
}

static const uint16_t *unit_values(const struct search *s, const struct head *head,
                                   uint32_t segment, uint32_t unit)
{
    const uint16_t *values = index_at(view_head(head, segment), s->layouts[segment].values);
    return values + (size_t)unit * s->selector->params.d_v;
}

static void add_units(const struct search *s, const struct head *head, uint32_t g,
                      struct partial *to)
{
    const struct selector_params *p = to->params;
    const float gain = search_spread_gain(s, head, g);
    for (uint32_t i = 0; i < head->fine.n_spans; i++) {
        const struct span *span = &head->fine.spans[i];
        uint32_t n;
        for (uint32_t first = 0; first < span->n; first += n) {
            const uint32_t slot = span->slot + first;
            float x[PIECE], w[PIECE];
            n = span->n - first < PIECE ? span->n - first : PIECE;
            memcpy(x, head->fine.scores + (size_t)g * head->fine.stride + slot, n * sizeof *x);
            for (uint32_t j = 0; j < n; j++)
                w[j] = head->whole[slot + j] * (1 + gain * head->fine.spread[slot + j]);
            take_in(to, x, w, n);
            p->kernels->kv.blend_rows(x, n, 1,
                                      unit_values(s, head, span->segment, span->first + first), n,
                                      p->d_v, to->o);
        }
    }
}

// Log of what the candidate's tokens weigh that were not picked.
static float weigh_tokens(const struct search *s, const struct head *head,
                          const struct candidate *c, uint32_t g)
{
    const struct selector_params *p = &s->selector->params;
    const float *score = head->token_scores + g * (size_t)p->n_rows_max + c->token;
    const float *rank = head->token_rank + c->token;
    float sum[2] = {-INFINITY, -INFINITY}; // a masked segment's values are of masked rows too
    uint32_t n;
    for (uint32_t first = 0; first < c->n_rows && !is_masked(s, head, c->segment); first += n) {
        float left[TOKENS];
        n = c->n_rows - first < TOKENS ? c->n_rows - first : TOKENS;
        for (uint32_t i = 0; i < n; i++)
            left[i] = rank[first + i] > -INFINITY ? 1.0f : 0.0f;
        sum[1] = p->kernels->kv.log_sum_exp(score + first, left, n);
        sum[0] = first == 0 ? sum[1] : p->kernels->kv.log_sum_exp(sum, NULL, 2);
    }
    return sum[0];
}

static void add_candidates(const struct search *s, const struct head *head, uint32_t g,
                           struct partial *to)
{
    const struct selector_params *p = to->params;
    uint32_t n;
    for (uint32_t first = 0; first < head->n_candidates; first += n) {
        const struct candidate *c = head->candidates + first;
        float x[PIECE], w[PIECE];
        n = head->n_candidates - first < PIECE ? head->n_candidates - first : PIECE;
        for (uint32_t i = 0; i < n; i++) {
            x[i] = weigh_tokens(s, head, &c[i], g);
            w[i] = 1;
        }
        take_in(to, x, w, n);
        for (uint32_t i = 0; i < n; i++)
            if (x[i] > 0)
                p->kernels->kv.blend_rows(
                    &x[i], 1, 1, unit_values(s, head, c[i].segment, c[i].unit), 1, p->d_v, to->o);
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
        const struct head *head = &to->s->heads[h];
        for (uint32_t g = 0; g < p->group; g++) {
            const size_t at = h * p->group + g;
            struct partial partial = {p, to->o + at * p->d_v, -INFINITY};
            memset(partial.o, 0, p->d_v * sizeof *partial.o);
            if (!head->everything) {
                add_units(to->s, head, g, &partial);
                add_candidates(to->s, head, g, &partial);
            }
            to->lse[at] = partial.lse;
        }
    }
}

void search_estimate(struct search *s, float *o, float *lse)
{
    struct stand_in to = {s, o, lse};
    pool_for(s->selector->params.pool, s->selector->params.n_kv_heads, 1, estimate_heads, &to);
}
