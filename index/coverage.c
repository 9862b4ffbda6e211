// What was not picked: a bound and an estimate of its softmax mass, and a partial of attention that
// stands in for it.
//
// Of a unit with representative c, radius r and mean squared distance s, and a query head's q:
//     every key's score  <=  <q, c> + |q| r + error            (the ball; likewise by the box)
//     their mean weight  ~   exp(<q, c> + s |q|^2 / (2 d))     (keys spread evenly about c)
// Candidates' tokens have scores of their own, with an error of their own.

#include "index/search.h"

#include <math.h>
#include <string.h>

// Rounding of a score, above d steps of u = 2^-24 times the lengths that were multiplied, d <= 256
// (sums go by lanes), and of the few steps after it.
static const float ROUNDING = 0x1p-18f;
enum { CHUNK = 256, PIECE = 32 };

float score_error(const struct head *head, uint32_t segment, uint32_t g)
{
    const struct index_head *index = view_head(head, segment);
    return head->slack[g] * index->rep_norm +
           ROUNDING * head->norm[g] * (index->rep_norm + index->radius_max);
}

// ---- Sums of exponentials -----------------------------------------------------------------------

// log of a sum that grows by chunks.
struct tally {
    const struct kv_kernels *kv;
    uint32_t n;
    float bound[CHUNK];
    float estimate[CHUNK];
    float weight[CHUNK];
    double log_bound;
    double log_estimate;
};

static double add_logs(double a, double b)
{
    const double most = a > b ? a : b;
    if (most == -INFINITY || most == INFINITY) return most;
    return most + log(exp(a - most) + exp(b - most));
}

static void flush(struct tally *t)
{
    t->log_bound = add_logs(t->log_bound, (double)t->kv->log_sum_exp(t->bound, t->weight, t->n));
    t->log_estimate =
        add_logs(t->log_estimate, (double)t->kv->log_sum_exp(t->estimate, t->weight, t->n));
    t->n = 0;
}

static void count(struct tally *t, float bound, float estimate, float weight)
{
    if (!(weight > 0)) return;
    t->bound[t->n] = bound;
    t->estimate[t->n] = estimate < bound ? estimate : bound;
    t->weight[t->n] = weight;
    if (++t->n == CHUNK) flush(t);
}

// ---- Bound and estimate -------------------------------------------------------------------------

static float bound_slot(const struct head *head, const struct level *level, uint32_t slot,
                        uint32_t g, float error)
{
    const size_t at = (size_t)g * level->stride + slot;
    const float ball = level->scores[at] + head->norm[g] * level->radius[slot] + error;
    if (level->tops == NULL || ball < level->tops[at]) return ball;
    return level->tops[at];
}

static float estimate_slot(const struct head *head, const struct level *level, uint32_t slot,
                           uint32_t g, uint32_t d)
{
    const size_t at = (size_t)g * level->stride + slot;
    return level->scores[at] +
           0.5f * head->norm[g] * head->norm[g] * level->spread[slot] / (float)d;
}

static void count_level(const struct search *s, const struct head *head, const struct level *level,
                        uint32_t g, struct tally *t)
{
    for (uint32_t i = 0; i < level->n_spans; i++) {
        const struct span *span = &level->spans[i];
        const float error = score_error(head, span->segment, g);
        for (uint32_t slot = span->slot; slot < span->slot + span->n; slot++)
            if (level->weight[slot] > 0)
                count(t, bound_slot(head, level, slot, g, error),
                      estimate_slot(head, level, slot, g, s->selector->params.d_k),
                      level->weight[slot]);
    }
}

static void count_tokens(const struct search *s, const struct head *head, uint32_t g,
                         struct tally *t)
{
    const struct selector_params *p = &s->selector->params;
    for (uint32_t i = 0; i < head->n_candidates; i++) {
        const struct candidate *c = &head->candidates[i];
        const struct index_head *index = view_head(head, c->segment);
        const float *score = head->token_scores + (size_t)g * p->n_rows_max + c->token;
        const float *rank = head->token_rank + c->token;
        const float top =
            bound_slot(head, &head->fine, c->slot, g, score_error(head, c->segment, g));
        const float error =
            head->token_error[(size_t)c->segment * p->group + g] +
            head->norm[g] * (index->key_error + ROUNDING * (index->rep_norm + index->radius_max));
        for (uint32_t j = 0; j < c->n_rows; j++)
            if (rank[j] > -INFINITY)
                count(t, score[j] + error < top ? score[j] + error : top, score[j], 1);
    }
}

void search_rest(struct search *s, struct head *head)
{
    const struct selector_params *p = &s->selector->params;
    for (uint32_t g = 0; g < p->group; g++) {
        struct tally t = {.kv = &p->kernels->kv, .log_bound = -INFINITY, .log_estimate = -INFINITY};
        if (!head->everything) {
            count_level(s, head, &head->coarse, g, &t);
            count_level(s, head, &head->fine, g, &t);
            count_tokens(s, head, g, &t);
            flush(&t);
        }
        // The sums' own rounding, well above it.
        const double slack = 0x1p-12 + 0x1p-20 * fabs(t.log_bound);
        head->rest_bound[g] = t.log_bound > -INFINITY ? (float)(t.log_bound + slack) : -INFINITY;
        head->rest_estimate[g] = (float)t.log_estimate;
    }
}

// ---- Stand-in for attention ---------------------------------------------------------------------

// Scores of n slots for query head g, as the estimate has them, weights included; -infinity: none.
static void weigh_slots(const struct search *s, const struct head *head, const struct span *span,
                        uint32_t first, uint32_t n, uint32_t g, float *x)
{
    const float error = score_error(head, span->segment, g);
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t slot = span->slot + first + i;
        const float bound = bound_slot(head, &head->fine, slot, g, error);
        const float about = estimate_slot(head, &head->fine, slot, g, s->selector->params.d_k);
        x[i] = (about < bound ? about : bound) + logf(head->whole[slot]);
    }
}

// One pass over the units of which nothing was picked: sums lse, or, with o, blends their values by
// their share of it.
static void pass_units(const struct search *s, const struct head *head, float *o, float *lse)
{
    const struct selector_params *p = &s->selector->params;
    const struct kv_kernels *kv = &p->kernels->kv;
    for (uint32_t i = 0; i < head->fine.n_spans; i++) {
        const struct span *span = &head->fine.spans[i];
        const uint16_t *values =
            index_at(view_head(head, span->segment), s->layouts[span->segment].values);
        for (uint32_t first = 0; first < span->n; first += PIECE) {
            const uint32_t n = span->n - first < PIECE ? span->n - first : PIECE;
            for (uint32_t g = 0; g < p->group; g++) {
                float x[PIECE];
                weigh_slots(s, head, span, first, n, g, x);
                const float mass = kv->log_sum_exp(x, NULL, n);
                if (o == NULL) {
                    lse[g] = (float)add_logs((double)lse[g], (double)mass);
                    continue;
                }
                if (mass == -INFINITY) continue;
                const float share = expf(mass - lse[g]);
                p->kernels->softmax(x, 1, n);
                for (uint32_t j = 0; j < n; j++)
                    x[j] *= share;
                kv->blend_rows(x, n, 1, values + (size_t)(span->first + first) * p->d_v, n, p->d_v,
                               o + (size_t)g * p->d_v);
            }
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
        float *o = to->o + h * p->group * p->d_v;
        float *lse = to->lse + h * p->group;
        memset(o, 0, (size_t)p->group * p->d_v * sizeof *o);
        for (uint32_t g = 0; g < p->group; g++)
            lse[g] = -INFINITY;
        pass_units(to->s, &to->s->heads[h], NULL, lse);
        pass_units(to->s, &to->s->heads[h], o, lse);
    }
}

void search_estimate(struct search *s, float *o, float *lse)
{
    struct stand_in to = {s, o, lse};
    pool_for(s->selector->params.pool, s->selector->params.n_kv_heads, 1, estimate_heads, &to);
}
