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

// Logs of two sums that grow by chunks.
struct tally {
    const struct kv_kernels *kv;
    uint32_t n; // of the chunk
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

// Room for the next n items or, at the end of a chunk, for fewer.
static uint32_t make_room(struct tally *t, uint32_t n)
{
    if (t->n == CHUNK) flush(t);
    return n < CHUNK - t->n ? n : CHUNK - t->n;
}

// Takes in, of the n items that follow in the chunk, those with weight: exponentials of nothing are
// subnormal on the way, which costs a hundred cycles each.
static void keep_items(struct tally *t, uint32_t n)
{
    uint32_t at = t->n;
    for (uint32_t i = t->n; i < t->n + n; i++) {
        t->bound[at] = t->bound[i];
        t->estimate[at] = t->estimate[i];
        t->weight[at] = t->weight[i];
        at += t->weight[i] > 0;
    }
    t->n = at;
}

// ---- Bound and estimate -------------------------------------------------------------------------

// Of n slots of one segment, for query head g.
static void judge_slots(const struct search *s, const struct head *head, const struct level *level,
                        uint32_t segment, uint32_t slot, uint32_t n, uint32_t g, float *bound,
                        float *estimate)
{
    const size_t at = (size_t)g * level->stride + slot;
    const float *score = level->scores + at;
    const float *radius = level->radius + slot;
    const float *spread = level->spread + slot;
    const float norm = head->norm[g];
    const float half_square = 0.5f * norm * norm / (float)s->selector->params.d_k;
    const float error = score_error(head, segment, g);
    for (uint32_t i = 0; i < n; i++)
        bound[i] = score[i] + norm * radius[i] + error;
    if (level->tops != NULL)
        for (uint32_t i = 0; i < n; i++)
            bound[i] = level->tops[at + i] < bound[i] ? level->tops[at + i] : bound[i];
    for (uint32_t i = 0; i < n; i++) {
        const float about = score[i] + half_square * spread[i];
        estimate[i] = about < bound[i] ? about : bound[i];
    }
}

static void count_level(const struct search *s, const struct head *head, const struct level *level,
                        uint32_t g, struct tally *t)
{
    for (uint32_t i = 0; i < level->n_spans; i++) {
        const struct span *span = &level->spans[i];
        uint32_t n;
        for (uint32_t first = 0; first < span->n; first += n) {
            const uint32_t slot = span->slot + first;
            n = make_room(t, span->n - first);
            judge_slots(s, head, level, span->segment, slot, n, g, t->bound + t->n,
                        t->estimate + t->n);
            memcpy(t->weight + t->n, level->weight + slot, n * sizeof *t->weight);
            keep_items(t, n);
        }
    }
}

// Tokens of one candidate that were not picked. A token's score is at most that of the second
// stage, with its error, and at most what bounds its unit.
static void count_candidate(const struct search *s, const struct head *head,
                            const struct candidate *c, uint32_t g, float error, struct tally *t)
{
    const size_t stride = (size_t)s->selector->params.n_rows_max;
    const float *score = head->token_scores + g * stride + c->token;
    const float *rank = head->token_rank + c->token;
    float top, about;
    uint32_t n;
    judge_slots(s, head, &head->fine, c->segment, c->slot, 1, g, &top, &about);
    for (uint32_t first = 0; first < c->n_rows; first += n, score += n, rank += n) {
        float *bound, *estimate, *weight;
        n = make_room(t, c->n_rows - first);
        bound = t->bound + t->n, estimate = t->estimate + t->n, weight = t->weight + t->n;
        for (uint32_t i = 0; i < n; i++) {
            bound[i] = score[i] + error < top ? score[i] + error : top;
            estimate[i] = score[i];
            weight[i] = rank[i] > -INFINITY ? 1.0f : 0.0f;
        }
        keep_items(t, n);
    }
}

static void count_tokens(const struct search *s, const struct head *head, uint32_t g,
                         struct tally *t)
{
    const uint32_t group = s->n_heads;
    for (uint32_t i = 0; i < head->n_candidates; i++) {
        const struct candidate *c = &head->candidates[i];
        const struct index_head *index = view_head(head, c->segment);
        const float length = index->key_error + ROUNDING * (index->rep_norm + index->radius_max);
        count_candidate(s, head, c, g,
                        head->token_error[(size_t)c->segment * group + g] + head->norm[g] * length,
                        t);
    }
}

static void sum_rest(const struct search *s, const struct head *head, uint32_t g, struct tally *t)
{
    if (head->everything) return;
    count_level(s, head, &head->coarse, g, t);
    count_level(s, head, &head->fine, g, t);
    count_tokens(s, head, g, t);
    flush(t);
}

void search_rest(const struct search *s, struct head *head)
{
    for (uint32_t g = 0; g < s->n_heads; g++) {
        struct tally t;
        t.kv = &s->selector->params.kernels->kv;
        t.n = 0;
        t.log_bound = t.log_estimate = s->args.skip_rest ? INFINITY : -INFINITY;
        if (!s->args.skip_rest) sum_rest(s, head, g, &t);
        // The sums' own rounding, well above it.
        const double slack = 0x1p-12 + 0x1p-20 * fabs(t.log_bound);
        head->rest_bound[g] =
            fabs(t.log_bound) < INFINITY ? (float)(t.log_bound + slack) : (float)t.log_bound;
        head->rest_estimate[g] = (float)t.log_estimate;
    }
}

// ---- Stand-in for attention ---------------------------------------------------------------------

// Scores of n slots for query head g, as the estimate has them, weights included; -infinity: none.
static void weigh_slots(const struct search *s, const struct head *head, const struct span *span,
                        uint32_t first, uint32_t n, uint32_t g, float *x)
{
    const uint32_t slot = span->slot + first;
    float bound[PIECE];
    judge_slots(s, head, &head->fine, span->segment, slot, n, g, bound, x);
    for (uint32_t i = 0; i < n; i++)
        x[i] += logf(head->whole[slot + i]);
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
