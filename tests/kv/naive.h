// The truth for tests of the tiered cache: sequences as plain arrays, attention over them in
// double, and steps that give an engine the same and compare.
//
// A token is a number: its keys, values and queries are rows of one pool, another row in each
// layer. A failing comparison prints the engine's plan and the last operations that were noted.

#ifndef FATHOM_TESTS_KV_NAIVE_H
#define FATHOM_TESTS_KV_NAIVE_H

#include "tests/check.h"

#include "fathom/fathom.h"
#include "src/base/rng.h"

enum { NAIVE_ROWS = 2048, NAIVE_OPS = 24, NAIVE_OP_BYTES = 96 };

struct naive {
    struct fathom_engine_params params; // rope: none
    struct rng rng;
    float *k;        // [NAIVE_ROWS, n_kv_heads, d_k], as the engine is given them
    float *v;        // [NAIVE_ROWS, n_kv_heads, d_v]
    float *q;        // [NAIVE_ROWS, n_heads, d_k]
    float *k_stored; // as it stores them
    float *v_stored;
    float *step_k; // [n_step_max, n_kv_heads, d_k]
    float *step_v;
    float *step_q;
    float *out;
    double *weights;  // [n_tokens_max]
    double tolerance; // of an output's value
    double v_max;     // of |v|
    bool partial; // budgets leave keys out: the coverage bound says how far the output may be off
    size_t n_compared;
    char title[2 * NAIVE_OP_BYTES]; // of the run, for a failure
    char ops[NAIVE_OPS][NAIVE_OP_BYTES];
    size_t n_ops;
};

struct naive_seq {
    struct fathom_seq seq;
    uint32_t n;
    uint16_t *tokens; // [n_tokens_max]
};

// How the pool is filled: normal values (queries twice as long), or values that codes of params'
// codec hold to within half a float: keys of -1 and 1, values on the grid of the codes.
void naive_init(struct naive *naive, const struct fathom_engine_params *params, uint64_t seed);
void naive_fini(struct naive *naive);
void naive_seq_init(const struct naive *naive, struct naive_seq *seq); // not created yet
void naive_seq_fini(struct naive_seq *seq);

// Keeps an operation's words for a failure.
void naive_note(struct naive *naive, const char *format, ...) __attribute__((format(printf, 2, 3)));

// A step of n new tokens, compared: of a step of one token every head, else some. After an error
// the step is cancelled and the sequence as before.
FATHOM_MUST_USE fathom_status naive_step(struct naive *naive, fathom_engine *engine,
                                         struct naive_seq *seq, uint32_t n);

#endif
