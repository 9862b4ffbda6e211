// What the check of attention shares between its files: a problem, its truth, and the bench.

#ifndef FATHOM_TESTS_KERNELS_K_ATTEND_H
#define FATHOM_TESTS_KERNELS_K_ATTEND_H

#include "src/base/rng.h"
#include "src/iface/kernels.h"

// Arguments with the memory behind them, and what must come out.
struct problem {
    struct attend_args args;
    float *q, *o, *lse;
    char *k, *v; // 0xff (NaN in all types) between rows and, with gaps, one element before them
    void *scratch;
    double *k_wide, *v_wide;      // [n_keys, d_k], [n_keys, d_v]
    double *o_true, *o_bound;     // [n_tokens * group, d_v]
    double *lse_true, *lse_bound; // [n_tokens * group]
    size_t o_count, lse_count;    // floats, margins of canaries included
};

// Fills in pointers, strides and random values; the caller has set all other numbers of args. With
// gaps, rows lie apart and not aligned. Queries are normal numbers times `spread`.
void problem_open(struct problem *p, struct rng *rng, bool gaps, float spread);
void problem_close(struct problem *p);

// Stores x as one value of the type; returns what was stored.
double problem_put(int32_t type, char *at, float x);

// Finds truth and bounds for the values that are there now (k_wide and v_wide, not k and v).
void problem_solve(struct problem *p);
// Runs the kernel over outputs full of canaries.
void problem_run(struct problem *p, const struct kernel_table *table);
// Fails unless the outputs lie within slack * bounds and nothing was written beside them.
void problem_compare(const struct problem *p, const char *variant, double slack);

// Prints tables of speed. The result is main's.
int attend_bench(void);

#endif
