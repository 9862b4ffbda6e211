// Top-k as a threshold, found in linear time.

#ifndef FATHOM_INDEX_CUT_H
#define FATHOM_INDEX_CUT_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// Items above `key` are taken, and of those at `key`, in order, while `left` is above zero.
struct cut {
    uint32_t key;
    uint64_t left;
};

// Orders floats as unsigned numbers; -infinity is the least number that is taken for one.
static inline uint32_t cut_key(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits ^ ((uint32_t)((int32_t)bits >> 31) | 0x80000000u);
}

// Where the greatest of x[n] hold `want` in weight, or a little more: weights are whole numbers and
// NULL stands for ones. Items at -infinity are never taken.
struct cut cut_find(const float *x, const float *weight, size_t n, uint64_t want);

// Whether the cut takes the next item in order.
static inline bool cut_takes(struct cut *cut, float x, float weight)
{
    const uint32_t key = cut_key(x);
    if (key < cut->key) return false;
    if (key > cut->key) return true;
    if (cut->left == 0) return false;
    const uint64_t w = (uint64_t)weight;
    cut->left -= w < cut->left ? w : cut->left;
    return true;
}

#endif
