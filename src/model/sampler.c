// Choosing the next token from logits. All memory is taken at open; a pick costs one pass over the
// vocabulary plus heap work on the tokens that may survive: nothing is sorted that is not needed.
//
// Logits that are not finite (a mask's -inf, a fault's NaN) take no part in anything.

#include "fathom/model.h"

#include "src/base/mem.h"
#include "src/base/rng.h"
#include "src/base/status.h"

#include <float.h>
#include <math.h>
#include <string.h>

struct candidate {
    float logit;
    int32_t id;
};

struct fathom_sampler {
    struct fathom_sampler_params params;
    uint32_t n_vocab;
    struct rng rng;
    struct candidate *candidates; // [n_vocab] scratch of a pick
    uint32_t *counts;             // [n_vocab] times that a token is in recent
    int32_t *recent;              // [n_repeat] ring of the newest accepted tokens
    uint32_t n_recent;
    uint32_t recent_at; // where the next one goes: the oldest, once the ring is full
};

void fathom_sampler_params_init(struct fathom_sampler_params *params)
{
    *params = (struct fathom_sampler_params){
        .struct_bytes = sizeof *params,
        .top_k = 40,
        .temperature = 0.8f,
        .top_p = 0.95f,
        .min_p = 0.05f,
        .repeat_penalty = 1.0f,
        .n_repeat = 64,
    };
}

static fathom_status check_params(const struct fathom_sampler_params *params, uint32_t n_vocab)
{
    if (params->struct_bytes != sizeof *params)
        return status_set(FATHOM_EINVAL,
                          "sampler params: struct_bytes=%u: call fathom_sampler_params_init first",
                          params->struct_bytes);
    if (n_vocab == 0 || n_vocab > INT32_MAX)
        return status_set(FATHOM_EINVAL, "n_vocab=%u: must be from 1 to %d", n_vocab, INT32_MAX);
    if (isnan(params->temperature) || params->temperature > FLT_MAX)
        return status_set(FATHOM_EINVAL, "temperature=%g: must be a finite number (0: greedy)",
                          (double)params->temperature);
    if (!(params->top_p >= 0.0f && params->top_p <= 1.0f))
        return status_set(FATHOM_EINVAL, "top_p=%g: must be from 0 to 1 (1: off)",
                          (double)params->top_p);
    if (!(params->min_p >= 0.0f && params->min_p <= 1.0f))
        return status_set(FATHOM_EINVAL, "min_p=%g: must be from 0 to 1 (0: off)",
                          (double)params->min_p);
    if (!(params->repeat_penalty > 0.0f && params->repeat_penalty <= FLT_MAX))
        return status_set(FATHOM_EINVAL, "repeat_penalty=%g: must be above 0 (1: off)",
                          (double)params->repeat_penalty);
    return FATHOM_OK;
}

fathom_status fathom_sampler_open(const struct fathom_sampler_params *params, uint32_t n_vocab,
                                  fathom_sampler **out_sampler)
{
    fathom_status status;
    struct fathom_sampler *sampler;
    if (params == NULL || out_sampler == NULL)
        return status_set(FATHOM_EINVAL, "fathom_sampler_open: NULL argument");
    FATHOM_TRY(check_params(params, n_vocab));
    FATHOM_TRY(mem_new(1, sizeof *sampler, "sampler", &sampler));
    sampler->params = *params;
    sampler->n_vocab = n_vocab;
    rng_init(&sampler->rng, params->seed);
    FATHOM_CHECK(
        mem_new(n_vocab, sizeof *sampler->candidates, "sampler's candidates", &sampler->candidates),
        out);
    FATHOM_CHECK(mem_new(n_vocab, sizeof *sampler->counts, "sampler's counts", &sampler->counts),
                 out);
    FATHOM_CHECK(mem_new(params->n_repeat, sizeof *sampler->recent, "sampler's recent tokens",
                         &sampler->recent),
                 out);
    *out_sampler = sampler;
    return FATHOM_OK;
out:
    fathom_sampler_close(&sampler);
    return status;
}

void fathom_sampler_close(fathom_sampler **sampler)
{
    if (sampler == NULL || *sampler == NULL) return;
    mem_free((*sampler)->candidates);
    mem_free((*sampler)->counts);
    mem_free((*sampler)->recent);
    mem_free(*sampler);
    *sampler = NULL;
}

void fathom_sampler_accept(fathom_sampler *sampler, int32_t id)
{
    uint32_t n_repeat = sampler->params.n_repeat;
    if (n_repeat == 0 || id < 0 || (uint32_t)id >= sampler->n_vocab) return;
    if (sampler->n_recent == n_repeat)
        sampler->counts[sampler->recent[sampler->recent_at]]--;
    else
        sampler->n_recent++;
    sampler->recent[sampler->recent_at] = id;
    sampler->recent_at = (sampler->recent_at + 1) % n_repeat;
    sampler->counts[id]++;
}

static float penalize(float logit, float penalty)
{
    float value = logit > 0.0f ? logit / penalty : logit * penalty;
    return fmaxf(-FLT_MAX, fminf(value, FLT_MAX));
}

// Fills the candidates, in order of id; returns how many.
static uint32_t list_candidates(struct fathom_sampler *sampler, const float *logits)
{
    float penalty = sampler->params.repeat_penalty;
    uint32_t n = 0;
    for (uint32_t id = 0; id < sampler->n_vocab; id++) {
        if (!isfinite(logits[id])) continue;
        bool is_recent = sampler->counts[id] > 0;
        sampler->candidates[n++] = (struct candidate){
            .logit = is_recent ? penalize(logits[id], penalty) : logits[id], .id = (int32_t)id};
    }
    return n;
}

static bool is_better(struct candidate a, struct candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// Lets heap[at] sink to its place. The root is the best of the heap, or the worst.
static void sift_down(struct candidate *heap, uint32_t n, uint32_t at, bool best_first)
{
    struct candidate item = heap[at];
    for (;;) {
        size_t child = 2 * (size_t)at + 1;
        if (child >= n) break;
        if (child + 1 < n && is_better(heap[child + 1], heap[child]) == best_first) child++;
        if (is_better(item, heap[child]) == best_first) break;
        heap[at] = heap[child];
        at = (uint32_t)child;
    }
    heap[at] = item;
}

static void make_heap(struct candidate *heap, uint32_t n, bool best_first)
{
    for (uint32_t i = n / 2; i-- > 0;)
        sift_down(heap, n, i, best_first);
}

// Moves the k best to the front, in no order.
static uint32_t keep_top_k(struct candidate *candidates, uint32_t n, uint32_t k)
{
    if (k == 0 || k >= n) return n;
    make_heap(candidates, k, false);
    for (uint32_t i = k; i < n; i++) {
        if (!is_better(candidates[i], candidates[0])) continue;
        candidates[0] = candidates[i];
        sift_down(candidates, k, 0, false);
    }
    return k;
}

static float find_best_logit(const struct candidate *candidates, uint32_t n)
{
    float best = candidates[0].logit;
    for (uint32_t i = 1; i < n; i++)
        best = fmaxf(best, candidates[i].logit);
    return best;
}

// Keeps those at least min_p times as probable as the best.
static uint32_t keep_min_p(struct candidate *candidates, uint32_t n, double floor_logit)
{
    uint32_t n_kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (candidates[i].logit >= floor_logit) candidates[n_kept++] = candidates[i];
    return n_kept;
}

// Keeps the fewest of the best whose probabilities sum to top_p, at least one; of these, those
// above the floor. They end up at the front, in no order.
static uint32_t keep_top_p(struct candidate *candidates, uint32_t n, float top_p, double best,
                           double floor_logit)
{
    double sum = 0.0, covered = 0.0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp(candidates[i].logit - best);
    make_heap(candidates, n, true);
    // Taken from the root, the best gather at the end.
    uint32_t n_left = n;
    while (n_left > 0 && (n_left == n || covered < (double)top_p * sum)) {
        struct candidate next = candidates[0];
        if (next.logit < floor_logit) break;
        candidates[0] = candidates[--n_left];
        if (n_left > 0) sift_down(candidates, n_left, 0, true);
        candidates[n_left] = next;
        covered += exp(next.logit - best);
    }
    uint32_t n_kept = n - n_left;
    memmove(candidates, candidates + n_left, n_kept * sizeof *candidates);
    return n_kept;
}

static int32_t draw(struct rng *rng, const struct candidate *candidates, uint32_t n,
                    float temperature, double best)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((candidates[i].logit - best) / temperature);
    double rest = rng_unit(rng) * sum;
    int32_t last = candidates[0].id;
    for (uint32_t i = 0; i < n; i++) {
        double weight = exp((candidates[i].logit - best) / temperature);
        if (weight > 0.0) last = candidates[i].id;
        rest -= weight;
        if (rest < 0.0) break;
    }
    // Rounding may leave a little of rest behind the last one.
    return last;
}

fathom_status fathom_sampler_pick(fathom_sampler *sampler, const float *logits, int32_t *id)
{
    const struct fathom_sampler_params *params = &sampler->params;
    struct candidate *candidates = sampler->candidates;
    uint32_t n = list_candidates(sampler, logits);
    if (n == 0)
        return status_set(FATHOM_EINVAL, "none of the %u logits is finite", sampler->n_vocab);
    if (params->temperature <= 0.0f) {
        struct candidate best = candidates[0];
        for (uint32_t i = 1; i < n; i++)
            if (candidates[i].logit > best.logit) best = candidates[i];
        *id = best.id;
        return FATHOM_OK;
    }
    n = keep_top_k(candidates, n, params->top_k);
    double best = find_best_logit(candidates, n);
    double floor_logit = best + log((double)params->min_p); // min_p 0: -inf
    n = params->top_p < 1.0f ? keep_top_p(candidates, n, params->top_p, best, floor_logit)
                             : keep_min_p(candidates, n, floor_logit);
    *id = draw(&sampler->rng, candidates, n, params->temperature, best);
    return FATHOM_OK;
}
