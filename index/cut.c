// Radix selection: three passes, each of which narrows the cut's key by some bits with a histogram
// of the weights.

#include "index/cut.h"

enum { PASSES = 3, BINS = 1 << 11 };
static const uint32_t shifts[PASSES] = {21, 10, 0};
static const uint32_t widths[PASSES] = {11, 11, 10}; // bits

// Weights of the items whose higher bits are those of key.
static void fill_bins(const float *x, const float *weight, size_t n, uint32_t pass, uint32_t key,
                      uint64_t *bins)
{
    const uint32_t shift = shifts[pass];
    const uint32_t mask = (1u << widths[pass]) - 1;
    memset(bins, 0, BINS * sizeof *bins);
    for (size_t i = 0; i < n; i++) {
        const uint32_t item = cut_key(x[i]);
        if (pass > 0 && ((item ^ key) >> shift) > mask) continue;
        bins[item >> shift & mask] += weight != NULL ? (uint64_t)weight[i] : 1;
    }
}

struct cut cut_find(const float *x, const float *weight, size_t n, uint64_t want)
{
    struct cut cut = {.key = 0, .left = want};
    uint64_t bins[BINS];
    for (uint32_t pass = 0; pass < PASSES && want > 0; pass++) {
        uint32_t bin = (1u << widths[pass]) - 1;
        fill_bins(x, weight, n, pass, cut.key, bins);
        for (; bin > 0 && bins[bin] < cut.left; bin--)
            cut.left -= bins[bin];
        cut.key |= bin << shifts[pass];
    }
    if (want == 0) cut.key = UINT32_MAX;
    if (cut.key <= cut_key(-INFINITY)) return (struct cut){.key = cut_key(-INFINITY)};
    return cut;
}
