// Selection by a sample and a histogram.
//
// The cut of a sample of the items tells between which two values theirs lies, nearly always. The
// items above are summed, those between are collected, and counted in bins of equal width: ranks
// are logarithms, so the bins of a radix over their bits would be few and crowded. The few items of
// the bin that the cut lies in are sorted; when they are many, they are counted again in finer
// bins.

#include "index/cut.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { BINS = 512, FEW = 32, SAMPLE = 1024 };

// Items from lo to hi; bin b holds those of (x - lo) * scale = b and a fraction.
struct range {
    float lo;
    float hi;
    double scale; // in double no two floats are too close or too far
};

// Places of items that the cut may lie among.
struct items {
    const float *x;
    const float *weight; // or NULL: ones
    uint32_t *at;
    size_t n;
};

static uint32_t weight_of(const struct items *items, uint32_t at)
{
    return items->weight != NULL ? (uint32_t)items->weight[at] : 1;
}

static uint64_t sum_weights(const struct items *items)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < items->n; i++)
        sum += weight_of(items, items->at[i]);
    return sum;
}

static uint32_t bin_of(const struct range *range, float x)
{
    const double at = ((double)x - (double)range->lo) * range->scale;
    return at < BINS - 1 ? (uint32_t)at : BINS - 1;
}

static struct range find_range(const struct items *items)
{
    struct range range = {INFINITY, -INFINITY, 0};
    for (size_t i = 0; i < items->n; i++) {
        const float x = items->x[items->at[i]];
        range.lo = x < range.lo ? x : range.lo;
        range.hi = x > range.hi ? x : range.hi;
    }
    if (range.lo < range.hi) range.scale = BINS / ((double)range.hi - (double)range.lo);
    return range;
}

// Narrows the items to those of the greatest bin so that it and those above hold cut->left; takes
// those above off it.
static void narrow(struct items *items, const struct range *range, struct cut *cut)
{
    uint32_t bins[BINS] = {0};
    uint32_t bin = BINS - 1;
    size_t n = 0;
    for (size_t i = 0; i < items->n; i++)
        bins[bin_of(range, items->x[items->at[i]])] += weight_of(items, items->at[i]);
    for (; bin > 0 && bins[bin] < cut->left; bin--)
        cut->left -= bins[bin];
    for (size_t i = 0; i < items->n; i++) {
        const uint32_t at = items->at[i];
        items->at[n] = at;
        n += bin_of(range, items->x[at]) == bin;
    }
    items->n = n;
}

// The cut among a few items: descending, until they hold what is left.
static void cut_few(struct items *items, struct cut *cut)
{
    const float *x = items->x;
    uint32_t *at = items->at;
    for (size_t i = 1; i < items->n; i++) {
        const uint32_t item = at[i];
        size_t to = i;
        for (; to > 0 && x[at[to - 1]] < x[item]; to--)
            at[to] = at[to - 1];
        at[to] = item;
    }
    for (size_t i = 0, end = 0; i < items->n; i = end) {
        uint64_t weight = 0;
        for (; end < items->n && x[at[end]] == x[at[i]]; end++)
            weight += weight_of(items, at[end]);
        cut->value = x[at[i]];
        if (weight >= cut->left) return;
        cut->left -= weight;
    }
}

// The cut among items that hold at least `want`, which is above 0. Leaves their order undefined.
static struct cut cut_items(struct items *items, uint64_t want)
{
    struct cut cut = {.left = want};
    while (items->n > FEW) {
        const struct range range = find_range(items);
        cut.value = range.hi;
        if (!(range.lo < range.hi)) return cut;
        narrow(items, &range, &cut);
    }
    cut_few(items, &cut);
    return cut;
}

// Values around that of the cut, from every step-th item, up to the width of a bin. The margin is
// two and a half standard deviations of what a random sample would hold of the items taken.
static void bracket(const float *x, const float *weight, size_t n, uint64_t want, float *lo,
                    float *hi)
{
    uint32_t at[SAMPLE], bins[BINS] = {0};
    struct items sample = {x, weight, at, 0};
    const size_t step = (n + SAMPLE - 1) / SAMPLE;
    uint64_t total = 0;
    for (size_t i = step / 2; i < n; i += step) {
        at[sample.n] = (uint32_t)i;
        if (x[i] > -INFINITY) sample.n++;
    }
    const struct range range = find_range(&sample);
    for (size_t i = 0; i < sample.n; i++) {
        const uint32_t item_weight = weight_of(&sample, at[i]);
        bins[bin_of(&range, x[at[i]])] += item_weight;
        total += item_weight;
    }
    if (!(range.lo < range.hi)) return;
    const double mean = (double)total / (double)sample.n;
    const double middle = (double)want / (double)step;
    const double margin = 2.5 * sqrt(middle * mean) + 2 * mean;
    double above = 0; // the next bin
    for (int bin = BINS - 1; bin >= 0 && above < middle + margin; bin--) {
        if (above <= middle - margin) *hi = (float)((double)range.lo + (bin + 1) / range.scale);
        above += bins[bin];
        if (above >= middle + margin) *lo = (float)((double)range.lo + bin / range.scale);
    }
}

struct cut cut_find(const struct kv_kernels *kv, const float *x, const float *weight, size_t n,
                    uint64_t want, uint32_t *room)
{
    const struct cut none = {.value = INFINITY};
    const struct cut all = {.value = -INFINITY};
    float lo = -FLT_MAX, hi = INFINITY;
    if (want == 0) return none;
    if (n >= (size_t)2 * SAMPLE) bracket(x, weight, n, want, &lo, &hi);
    for (;;) {
        const struct find_args within = {x, weight, n, lo, hi, room};
        const struct found found = kv->find_within(&within);
        struct items items = {x, weight, room, found.n};
        if (found.above < want && sum_weights(&items) >= want - found.above)
            return cut_items(&items, want - found.above);
        if (lo == -FLT_MAX && hi == INFINITY) return all;
        lo = -FLT_MAX, hi = INFINITY; // the sample was not like the rest
    }
}

size_t cut_places(const struct kv_kernels *kv, const struct cut *cut, const float *x, size_t n,
                  uint32_t *at)
{
    const struct find_args from = {x, NULL, n, cut->value, INFINITY, at};
    return kv->find_within(&from).n;
}
