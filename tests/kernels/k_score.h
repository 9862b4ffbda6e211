// What the check of scores shares between its files.

#ifndef FATHOM_TESTS_KERNELS_K_SCORE_H
#define FATHOM_TESTS_KERNELS_K_SCORE_H

#include "src/base/rng.h"
#include "src/iface/kernels.h"

enum { SCORE_GROUP_MAX = 16, SCORE_D_MAX = 256, SCORE_VARIANTS = 4 };

// Fills the table up to a rung; false where the machine does not have it.
bool score_variant(int variant, struct kernel_table *table, const char **name);

// Queries of all manners that packing may stumble over.
enum query_kind { QUERY_NORMAL, QUERY_OUTLIER, QUERY_EQUAL, QUERY_SMALL, QUERY_ZERO, QUERY_KINDS };
void score_fill_query(struct rng *rng, enum query_kind kind, float *q, uint32_t n);

// What is left of q[c] when it is rounded to codes of -n_codes .. n_codes, in steps of the
// greatest.
double score_residual(const float *q, uint32_t d, uint32_t c, float n_codes);

// The checks beyond representatives: one CMocka test each.
void test_score_rows(void **state);
void test_score_rows_nan(void **state);
void test_blend_rows(void **state);
void test_log_sum_exp(void **state);
void test_log_sum_exp_special(void **state);
void test_rank_scores(void **state);
void test_find_within(void **state);

// Prints tables of speed. The result is main's.
int score_bench(void);

#endif
