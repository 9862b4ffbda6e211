// Top-k as a threshold, found in linear time.

#ifndef FATHOM_INDEX_CUT_H
#define FATHOM_INDEX_CUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/iface/kernels.h"

// Items above `value` are taken, and of those equal to it, in order, while `left` is above zero.
struct cut {
    float value;
    uint64_t left;
};

// Where the greatest of x[n] hold `want` in weight, or a little more: weights are whole numbers and
// NULL stands for ones. Items at -infinity, and NaN, are never taken. room[n] is overwritten.
struct cut cut_find(const struct kv_kernels *kv, const float *x, const float *weight, size_t n,
                    uint64_t want, uint32_t *room);

// Places, ascending, of the items from the cut's value on, into at[n]; returns how many there are.
size_t cut_places(const struct kv_kernels *kv, const struct cut *cut, const float *x, size_t n,
                  uint32_t *at);

// Whether the cut takes the next item in order.
static inline bool cut_takes(struct cut *cut, float x, float weight)
{
    if (!(x >= cut->value)) return false;
    if (x > cut->value) return true;
    if (cut->left == 0) return false;
    const uint64_t w = (uint64_t)weight;
    cut->left -= w < cut->left ? w : cut->left;
    return true;
}

#endif
