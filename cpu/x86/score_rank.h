// Ranks of scores over the heads of a group, and what is above a threshold, for whichever
// instruction set includes it.

#ifndef FATHOM_CPU_X86_SCORE_RANK_H
#define FATHOM_CPU_X86_SCORE_RANK_H

#include "cpu/x86/simd.h"

#include <math.h>

#include "src/iface/kernels.h"

// VEC_LANES items from i on, of which n are there.
SIMD_INLINE vec rank_value(const struct rank_args *args, uint32_t g, size_t i, size_t n)
{
    vec value = vec_load_n(args->scores + g * args->stride + i, n);
    if (args->radius != NULL)
        value = vec_fma(vec_set1(args->reach[g]), vec_load_n(args->radius + i, n), value);
    return vec_sub(value, vec_set1(args->mass[g]));
}

// The logarithm of the sum, above the greatest value. Differences that are NaN count for nothing,
// like those of which the exponential would be subnormal.
static vec rank_excess(const struct rank_args *args, size_t i, size_t n, vec max)
{
    float sums[VEC_LANES];
    vec sum = vec_zero();
    for (uint32_t g = 0; g < args->group; g++) {
        vec value = vec_sub(rank_value(args, g, i, n), max);
        sum = vec_add(sum, vec_exp(vec_max(value, vec_set1(-87.0f))));
    }
    vec_store(sums, sum);
    for (int lane = 0; lane < VEC_LANES; lane++)
        sums[lane] = logf(sums[lane]);
    return vec_load(sums);
}

SIMD_INLINE void rank_lanes(const struct rank_args *args, size_t i, size_t n)
{
    const vec none = vec_set1(-INFINITY);
    vec rank = none;
    for (uint32_t g = 0; g < args->group; g++)
        rank = vec_max(rank_value(args, g, i, n), rank);
    if (args->sum) rank = vec_add(rank, rank_excess(args, i, n, rank));
    if (args->weight != NULL)
        rank = vec_above(vec_load_n(args->weight + i, n), vec_zero(), rank, none);
    vec_store_n(args->out + i, rank, n);
}

static void rank_scores(const struct rank_args *args)
{
    size_t i = 0;
    for (; i + VEC_LANES <= args->n; i += VEC_LANES)
        rank_lanes(args, i, VEC_LANES);
    if (i < args->n) rank_lanes(args, i, args->n - i);
}

static size_t find_above(const float *x, size_t n, float least, uint32_t *at)
{
    const vec bound = vec_set1(least);
    size_t n_found = 0, i = 0;
    for (; i + VEC_LANES <= n; i += VEC_LANES)
        n_found += vec_put_places(at + n_found, vec_at_least(vec_load(x + i), bound), (uint32_t)i);
    if (i < n) {
        uint32_t bits = vec_at_least(vec_load_n(x + i, n - i), bound) & ((1u << (n - i)) - 1);
        n_found += vec_put_places(at + n_found, bits, (uint32_t)i);
    }
    return n_found;
}

SIMD_INLINE void fill_rank_entries(struct kernel_table *table)
{
    table->kv.rank_scores = rank_scores;
    table->kv.find_above = find_above;
}

#endif
