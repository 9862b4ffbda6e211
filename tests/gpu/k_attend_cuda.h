// What the check of dense attention on the device shares between its files: a problem and its
// truth.

#ifndef FATHOM_TESTS_GPU_K_ATTEND_CUDA_H
#define FATHOM_TESTS_GPU_K_ATTEND_CUDA_H

#include "src/base/rng.h"
#include "src/iface/device.h"

// Arguments with the host's memory behind them, and what must come out.
struct dense_problem {
    struct dense_attend_args args; // its pointers are the device's, and set in a run
    uint32_t n_sms;
    uint32_t
        said_keys; // stands in args.n_keys, and that in the device's memory; 0: as args have it
    float *q, *cos_sin; // cos_sin: NULL unless args.n_rot > 0
    char *k, *v;        // 0xff, which is NaN in all types, beside the rows
    size_t lead;        // bytes before the first row
    size_t k_bytes, v_bytes;
    float *o, *lse; // what came out
    double *q_wide; // [n_tokens, n_heads, d_k], turned
    double *q_size; // |a cos| + |b sin|, or |q|
    double *k_wide; // [n_kv_heads, n_keys, d_k]
    double *v_wide; // [n_kv_heads, n_keys, d_v]
    double *o_true, *o_bound;
    double *lse_true, *lse_bound;
};

// Fills in strides and random values; the caller has set all other numbers of args, and n_sms. With
// gaps, rows lie apart and not aligned; else they and heads of them lie one behind the other.
void dense_open(struct dense_problem *p, struct rng *rng, bool gaps, float spread);
void dense_close(struct dense_problem *p);

// Sets one value of a key or value, as the type has it.
void dense_put_k(struct dense_problem *p, uint32_t kv_head, uint32_t j, uint32_t i, float x);
void dense_put_v(struct dense_problem *p, uint32_t kv_head, uint32_t j, uint32_t i, float x);

// Finds truth and bounds for the values that are there now.
void dense_solve(struct dense_problem *p);
// Runs the kernels; with_lse: else it is not asked for.
void dense_run(struct dense_problem *p, bool with_lse);
// Fails unless the outputs lie within the bounds.
void dense_compare(const struct dense_problem *p, bool with_lse);

#endif
