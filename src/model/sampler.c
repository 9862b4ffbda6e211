// Choosing the next token from logits. All memory is taken at open; a pick costs one pass over the
// vocabulary plus heap work on the tokens that may survive: nothing is sorted that is not needed.
//
// Logits that are not finite (a mask's -inf, a fault's NaN) take no part in anything.

#include "src/model/sampler.h"

#include "src/base/mem.h"
#include "src/base/rng.h"
#include "src/base/status.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct fathom_sampler {
    struct fathom_sampler_params params;
    uint32_t n_vocab;
    struct rng rng;
    struct logit *candidates; // [n_vocab] scratch of a pick
    bool *banned;             // [n_vocab]
    uint32_t n_banned;
    uint32_t *counts; // [n_vocab] times that a token is in recent
    int32_t *recent;  // [n_repeat] ring of the newest accepted tokens
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
    FATHOM_CHECK(
        mem_new(n_vocab, sizeof *sampler->banned, "sampler's banned tokens", &sampler->banned),
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
    mem_free((*sampler)->banned);
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

void fathom_sampler_ban(fathom_sampler *sampler, int32_t id)
{
    if (id < 0 || (uint32_t)id >= sampler->n_vocab || sampler->banned[id]) return;
    sampler->banned[id] = true;
    sampler->n_banned++;
}

static float penalize(float logit, float penalty)
{
    float value = logit > 0.0f ? logit / penalty : logit * penalty;
    return fmaxf(-FLT_MAX, fminf(value, FLT_MAX));
}

// Adds a token to the n candidates, unless it takes no part; returns how many there are.
static uint32_t add_candidate(struct fathom_sampler *sampler, uint32_t n, int32_t id, float logit)
{
    if (!isfinite(logit) || sampler->banned[id]) return n;
    if (sampler->counts[id] > 0) logit = penalize(logit, sampler->params.repeat_penalty);
    sampler->candidates[n] = (struct logit){.value = logit, .id = id};
    return n + 1;
}

static bool is_better(struct logit a, struct logit b)
{
    return a.value > b.value || (a.value == b.value && a.id < b.id);
}

// Lets heap[at] sink to its place. The root is the best of the heap, or the worst.
static void sift_down(struct logit *heap, uint32_t n, uint32_t at, bool best_first)
{
    struct logit item = heap[at];
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

static void make_heap(struct logit *heap, uint32_t n, bool best_first)
{
    for (uint32_t i = n / 2; i-- > 0;)
        sift_down(heap, n, i, best_first);
}

static int compare(const void *a, const void *b)
{
    return is_better(*(const struct logit *)a, *(const struct logit *)b) ? -1 : 1;
}

// Moves the k best to the front, the best first: sums over them do not depend on where they stood.
static uint32_t keep_top_k(struct logit *candidates, uint32_t n, uint32_t k)
{
    if (k == 0) return n;
    if (k > n) k = n;
    make_heap(candidates, k, false);
    for (uint32_t i = k; i < n; i++) {
        if (!is_better(candidates[i], candidates[0])) continue;
        candidates[0] = candidates[i];
        sift_down(candidates, k, 0, false);
    }
    qsort(candidates, k, sizeof *candidates, compare);
    return k;
}

static float find_best_logit(const struct logit *candidates, uint32_t n)
{
    float best = candidates[0].value;
    for (uint32_t i = 1; i < n; i++)
        best = fmaxf(best, candidates[i].value);
    return best;
}

// Keeps those at least min_p times as probable as the best.
static uint32_t keep_min_p(struct logit *candidates, uint32_t n, double floor_logit)
{
    uint32_t n_kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (candidates[i].value >= floor_logit) candidates[n_kept++] = candidates[i];
    return n_kept;
}

// Keeps the fewest of the best whose probabilities sum to top_p, at least one; of these, those
// above the floor. They end up at the front, in no order.
static uint32_t keep_top_p(struct logit *candidates, uint32_t n, float top_p, double best,
                           double floor_logit)
{
    double sum = 0.0, covered = 0.0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp(candidates[i].value - best);
    make_heap(candidates, n, true);
    // Taken from the root, the best gather at the end.
    uint32_t n_left = n;
    while (n_left > 0 && (n_left == n || covered < (double)top_p * sum)) {
        struct logit next = candidates[0];
        if (next.value < floor_logit) break;
        candidates[0] = candidates[--n_left];
        if (n_left > 0) sift_down(candidates, n_left, 0, true);
        candidates[n_left] = next;
        covered += exp(next.value - best);
    }
    uint32_t n_kept = n - n_left;
    memmove(candidates, candidates + n_left, n_kept * sizeof *candidates);
    return n_kept;
}

static int32_t draw(struct rng *rng, const struct logit *candidates, uint32_t n, float temperature,
                    double best)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++)
        sum += exp((candidates[i].value - best) / temperature);
    double rest = rng_unit(rng) * sum;
    int32_t last = candidates[0].id;
    for (uint32_t i = 0; i < n; i++) {
        double weight = exp((candidates[i].value - best) / temperature);
        if (weight > 0.0) last = candidates[i].id;
        rest -= weight;
        if (rest < 0.0) break;
    }
    // Rounding may leave a little of rest behind the last one.
    return last;
}

// Of the n candidates.
static fathom_status choose(fathom_sampler *sampler, uint32_t n, int32_t *id)
{
    const struct fathom_sampler_params *params = &sampler->params;
    struct logit *candidates = sampler->candidates;
    if (n == 0)
        return status_set(FATHOM_EINVAL, "of %u tokens none may be picked that has a finite logit",
                          sampler->n_vocab);
    if (params->temperature <= 0.0f) {
        struct logit best = candidates[0];
        for (uint32_t i = 1; i < n; i++)
            if (is_better(candidates[i], best)) best = candidates[i];
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

fathom_status fathom_sampler_pick(fathom_sampler *sampler, const float *logits, int32_t *id)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < sampler->n_vocab; i++)
        n = add_candidate(sampler, n, (int32_t)i, logits[i]);
    return choose(sampler, n, id);
}

// ---- From the best alone ------------------------------------------------------------------------

// Recent and banned tokens may sink or drop out, and so many more must be known; nothing rises.
uint32_t sampler_n_best(const fathom_sampler *sampler)
{
    const struct fathom_sampler_params *params = &sampler->params;
    const uint64_t n_kept = params->temperature <= 0.0f ? 1 : params->top_k;
    uint64_t n = n_kept + sampler->n_banned;
    if (n_kept == 0 || params->repeat_penalty < 1.0f) return 0;
    if (params->repeat_penalty > 1.0f) n += sampler->n_recent;
    return n < sampler->n_vocab ? (uint32_t)n : sampler->n_vocab;
}

fathom_status sampler_pick_best(fathom_sampler *sampler, const struct logit *best, uint32_t n_best,
                                int32_t *id)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_best; i++)
        if (best[i].id >= 0) n = add_candidate(sampler, n, best[i].id, best[i].value);
    return choose(sampler, n, id);
}

uint32_t sampler_n_vocab(const fathom_sampler *sampler)
{
    return sampler->n_vocab;
}
