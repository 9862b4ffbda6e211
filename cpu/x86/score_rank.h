// Ranks of scores over the heads of a group, and which lie within bounds, for whichever
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

// Of VEC_LANES values from i on, of which n are there. Weights are summed in f32, exactly.
SIMD_INLINE void find_lanes(bool weighted, const struct find_args *args, size_t i, size_t n,
                            struct found *found, vec *weights)
{
    const vec x = vec_load_n(args->x + i, n), most = vec_set1(args->most);
    const uint32_t all = n < VEC_LANES ? (1u << n) - 1 : (uint32_t)(1ull << VEC_LANES) - 1;
    const uint32_t up_to = vec_at_least(most, x);
    const uint32_t within = up_to & vec_at_least(x, vec_set1(args->least)) & all;
    found->n += vec_put_places(args->at + found->n, within, (uint32_t)i);
    if (weighted) {
        const vec weight = vec_load_n(args->weight + i, n);
        *weights = vec_add(*weights, vec_above(x, most, weight, vec_zero()));
        return;
    }
    const uint32_t above = vec_at_least(x, most) & ~up_to & all;
    found->above += (uint64_t)__builtin_popcount(above);
}

SIMD_INLINE struct found find_kind(bool weighted, const struct find_args *args)
{
    enum { EXACT_VALUES = 64 * VEC_LANES }; // whose weights, in lanes, stay below 2^23
    struct found found = {0, 0};
    for (size_t i = 0; i < args->n;) {
        const size_t end = args->n - i < EXACT_VALUES ? args->n : i + EXACT_VALUES;
        vec weights = vec_zero();
        float lanes[VEC_LANES];
        for (; i + VEC_LANES <= end; i += VEC_LANES)
            find_lanes(weighted, args, i, VEC_LANES, &found, &weights);
        if (i < end) find_lanes(weighted, args, i, end - i, &found, &weights);
        i = end;
        vec_store(lanes, weights);
        for (int lane = 0; weighted && lane < VEC_LANES; lane++)
            found.above += (uint64_t)lanes[lane];
    }
    return found;
}

static struct found find_within(const struct find_args *args)
{
    return args->weight != NULL ? find_kind(true, args) : find_kind(false, args);
}

SIMD_INLINE void fill_rank_entries(struct kernel_table *table)
{
    table->kv.rank_scores = rank_scores;
    table->kv.find_within = find_within;
}

#endif
