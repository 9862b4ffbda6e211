// Selection by histograms.
//
// Items between two values are counted in bins of equal width: ranks are logarithms, so the bins of
// a radix over their bits would be few and crowded, and every count would wait for the one before.
// The few items of the bin that the cut lies in are sorted; when they are many, they are counted
// again in finer bins.

#include "index/cut.h"

#include <math.h>

enum { BINS = 2048, FEW = 256, LANES = 16 };

// Items from lo to hi; bin b holds those of (x - lo) * scale = b and a fraction.
struct range {
    float lo;
    float hi;
    double scale; // in double no two floats are too close or too far
};

struct item {
    float x;
    uint32_t weight;
};

static uint32_t bin_of(const struct range *range, float x)
{
    const double at = ((double)x - (double)range->lo) * range->scale;
    return at < BINS - 1 ? (uint32_t)at : BINS - 1;
}

static uint32_t weight_of(const float *weight, size_t i)
{
    return weight != NULL ? (uint32_t)weight[i] : 1;
}

// The range of all items but those at -infinity and NaN; lo > hi: there are none.
static struct range find_range(const float *x, size_t n)
{
    float lo[LANES], hi[LANES];
    size_t i = 0;
    for (uint32_t j = 0; j < LANES; j++) {
        lo[j] = INFINITY;
        hi[j] = -INFINITY;
    }
    for (; i + LANES <= n; i += LANES)
        for (uint32_t j = 0; j < LANES; j++) {
            const float low = x[i + j] > -INFINITY ? x[i + j] : INFINITY;
            lo[j] = low < lo[j] ? low : lo[j];
            hi[j] = x[i + j] > hi[j] ? x[i + j] : hi[j];
        }
    for (; i < n; i++) {
        lo[0] = x[i] > -INFINITY && x[i] < lo[0] ? x[i] : lo[0];
        hi[0] = x[i] > hi[0] ? x[i] : hi[0];
    }
    struct range range = {lo[0], hi[0], 0};
    for (uint32_t j = 1; j < LANES; j++) {
        range.lo = lo[j] < range.lo ? lo[j] : range.lo;
        range.hi = hi[j] > range.hi ? hi[j] : range.hi;
    }
    return range;
}

// The greatest bin so that it and those above hold cut->left; takes those above off it.
static uint32_t find_bin(const float *x, const float *weight, size_t n, const struct range *range,
                         struct cut *cut)
{
    uint32_t bins[BINS] = {0};
    uint32_t bin = BINS - 1;
    for (size_t i = 0; i < n; i++)
        if (x[i] >= range->lo && x[i] <= range->hi)
            bins[bin_of(range, x[i])] += weight_of(weight, i);
    for (; bin > 0 && bins[bin] < cut->left; bin--)
        cut->left -= bins[bin];
    return bin;
}

// Narrows the range to the items of a bin; returns how many there are, the first FEW in items.
static size_t narrow(const float *x, const float *weight, size_t n, uint32_t bin,
                     struct range *range, struct item *items)
{
    struct range next = {INFINITY, -INFINITY, 0};
    size_t n_items = 0;
    for (size_t i = 0; i < n; i++) {
        if (!(x[i] >= range->lo && x[i] <= range->hi) || bin_of(range, x[i]) != bin) continue;
        next.lo = x[i] < next.lo ? x[i] : next.lo;
        next.hi = x[i] > next.hi ? x[i] : next.hi;
        if (n_items < FEW) items[n_items] = (struct item){x[i], weight_of(weight, i)};
        n_items++;
    }
    *range = next;
    return n_items;
}

// The cut among a few items: descending, until they hold what is left.
static void cut_few(struct item *items, size_t n, struct cut *cut)
{
    for (size_t i = 1; i < n; i++) {
        const struct item item = items[i];
        size_t at = i;
        for (; at > 0 && items[at - 1].x < item.x; at--)
            items[at] = items[at - 1];
        items[at] = item;
    }
    for (size_t i = 0, end = 0; i < n; i = end) {
        uint64_t weight = 0;
        for (; end < n && items[end].x == items[i].x; end++)
            weight += items[end].weight;
        cut->value = items[i].x;
        if (weight >= cut->left) return;
        cut->left -= weight;
    }
}

struct cut cut_find(const float *x, const float *weight, size_t n, uint64_t want)
{
    const struct cut none = {.value = INFINITY};
    const struct cut all = {.value = -INFINITY};
    struct cut cut = {.left = want};
    struct item items[FEW];
    uint64_t total = 0;
    if (want == 0) return none;
    for (size_t i = 0; i < n && total < want; i++)
        total += x[i] > -INFINITY ? weight_of(weight, i) : 0;
    if (total < want) return all;
    struct range range = find_range(x, n);
    while (range.lo < range.hi) {
        range.scale = BINS / ((double)range.hi - (double)range.lo);
        const uint32_t bin = find_bin(x, weight, n, &range, &cut);
        const size_t n_items = narrow(x, weight, n, bin, &range, items);
        if (n_items > FEW) continue;
        cut_few(items, n_items, &cut);
        return cut;
    }
    cut.value = range.hi;
    return cut;
}
