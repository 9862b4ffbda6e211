// What the check of attention over runs shares between its files: a problem, its truth, the tests
// of the codes, the bench.

#ifndef FATHOM_TESTS_KERNELS_K_RUNS_H
#define FATHOM_TESTS_KERNELS_K_RUNS_H

#include "src/base/rng.h"
#include "src/iface/kernels.h"

#define COUNT(a)     ((uint32_t)(sizeof(a) / sizeof(a)[0]))
#define PICK(rng, a) (a)[rng_below(rng, COUNT(a))]

// Arguments with the memory behind them, and what must come out.
struct runs_problem {
    struct attend_runs_args args;
    uint32_t n_rows; // of all runs
    uint32_t max_run;
    bool on_device; // bounds are those of the device's kernels
    float *q, *o, *lse, *k_min, *k_step;
    float *o_before, *lse_before; // the partial that is merged with, or canaries
    struct kv_run *runs;
    char *k, *v; // 0xff, which is NaN in all plain types, between runs
    void *scratch;
    double *k_wide, *v_wide;      // [n_rows, d]: what the rows stand for
    double *k_size, *v_size;      // |min| + |step * code|, or |value|
    double *k_codes;              // [n_rows] sums of codes
    double *o_true, *o_bound;     // [n_tokens * group, d_v]
    double *lse_true, *lse_bound; // [n_tokens * group]
    size_t o_count, lse_count;    // floats, margins of canaries included
};

enum { RUNS_FORMATS = 6, RUNS_DIMS = 7 };
extern const struct kv_format runs_formats[RUNS_FORMATS]; // d_k and d_v: 0
extern const uint32_t runs_dims[RUNS_DIMS];               // multiples of 8

// The numbers of a problem with d_k = d_v = d, to be opened.
struct runs_problem runs_case(struct kv_format format, uint32_t d, uint32_t group,
                              uint32_t n_tokens, uint32_t n_rows, uint32_t max_run);
// Random ones, of another kind for each n; with fewer rows where the truth would take more steps.
struct runs_problem runs_random_case(struct rng *rng, int n, double most_steps);

// Makes random runs of 1 .. max_run rows, max_run = 0: of random length, n_rows in all, at random
// places without alignment; fills in pointers, strides and random values. The caller has set
// n_rows, max_run and all other numbers of args.
void runs_open(struct runs_problem *p, struct rng *rng, float spread);
void runs_close(struct runs_problem *p);

// Sets one value of plain rows. Row j counts through all runs.
void runs_put_k(struct runs_problem *p, uint32_t j, uint32_t i, float x);
void runs_put_v(struct runs_problem *p, uint32_t j, uint32_t i, float x);

// Multiplies steps and mins of V's rows in codes.
void runs_scale_v(struct runs_problem *p, float factor);

// Finds truth and bounds for the values that are there now (k_wide and v_wide).
void runs_solve(struct runs_problem *p);
// Runs the kernel over outputs full of canaries, or over the partial before.
void runs_run(struct runs_problem *p, const struct kernel_table *table);
// Fails unless the outputs lie within the bounds and nothing was written beside them.
void runs_compare(const struct runs_problem *p, const char *variant);

// The code of channel c of a packed row, read by the formula of the contract.
uint32_t runs_code(uint32_t bits, const char *codes, uint32_t c);
// Step and min of V's group, likewise.
void runs_v_scale(const char *row, uint32_t group, double *step, double *min);

// The rungs of the ladder that have these kernels. false: the machine has it not.
enum { RUNS_VARIANTS = 4 };
bool runs_variant(int variant, struct kernel_table *table);

// Prints tables of speed. The result is main's.
int runs_bench(void);

// Tests of the codes.
void test_code_layout(void **state);
void test_code_round_trip(void **state);
void test_code_exact(void **state);
void test_code_edges(void **state);

#endif
