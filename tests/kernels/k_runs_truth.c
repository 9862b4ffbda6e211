// The truth of problems of attention over runs, in double from the contract's formulas, and how far
// off a kernel may be.
//
// Bounds. u = 2^-24. Write a row's scores s_j, their weights in the result p_j = exp(s_j - lse).
// - A score is a dot product, summed in any order, with scale, min and step taken into the query or
//   not: its error is at most d_j = (d_k + 8) u scale sum_i |q_i| k_size_ji, where k_size is |min|
//   + |step code| for codes, else |k|. For codes q step may be rounded to 16 bits of the greatest,
//   by half a unit in a channel: max_i |scale q_i step_i| / (2 * 32639) sum_i code_ji more.
// - Its weight exp(s_j - m): the subtraction and the factors for a growing m err by u (m - s_j)
//   in all, since their steps add up, and by u 4 more because m may lie 4 below the greatest score;
//   each of at most n_blocks + 1 exponentials errs by 2 u and its product by u. So
//   e_j = d_j + u (max - s_j + 4) + 4 u (n_blocks + 1).
// - Weights are summed with at most n_blocks + 16 roundings, values (themselves rounded once, or
//   taken apart into min and step) with n_blocks + 36.
// - The partial before counts as a row with an exact score.
// Hence |o - o'| <= sum_j p_j v_size_j (e_j + (n_blocks + 36) u) + |o| (sum_j p_j e_j + (n_blocks +
// 20) u), and |lse - lse'| <= sum_j p_j e_j + (n_blocks + 20) u + u |lse|, in first order; cases
// keep e_j below 0.01 and a tenth is added for the rest.
// The device's kernels (gpu/runs_*.cu) take 16 keys at a time, and their bounds are those of dense
// attention (tests/gpu/k_attend_cuda_problem.c), whose h is 0 and whose w is 2^-16 for codes, too.

#include "tests/kernels/k_runs.h"

#include "tests/check.h"

#include <math.h>

#include "src/base/mem.h"

static const double u = 0x1p-24;
enum {
    BLOCK_ROWS_MIN = 32, // kernels of the CPU take blocks of at least so many rows
    QUERY_TOP = 32639,   // the greatest value of a query of 16 bits
};

// The numbers of the bounds: roundings, in u, and what is lost besides.
struct slack {
    double score;  // of a score
    double below;  // how far the base of exponentials may lie below the greatest score
    double weight; // of a weight, by its exponentials
    double sum;    // of the sum of weights
    double values; // of the sum of values
    double lse;    // of lse, for each of |lse| + lse_base
    double lse_base;
    double rounded;   // w: what the rounding of queries and weights leaves
    double lost;      // of the greatest, below the smallest number of 16 bits
    double query_top; // 0: queries are not rounded to a multiple of the greatest
};

static struct slack find_slack(const struct runs_problem *p)
{
    const struct kv_format *f = &p->args.format;
    const double n = p->n_rows, d = f->d_k, n_blocks = p->n_rows / BLOCK_ROWS_MIN + 1;
    if (!p->on_device)
        return (struct slack){.score = d + 8,
                              .below = 4,
                              .weight = 4 * (n_blocks + 1),
                              .sum = n_blocks + 20,
                              .values = n_blocks + 36,
                              .lse = 1,
                              .query_top = QUERY_TOP};
    struct slack slack = {.score = 2.2 * d + 24,
                          .below = 20,
                          .weight = 6 * (n / 16 + 3),
                          .sum = n + 30,
                          .values = 2.2 * n + 80,
                          .lse = 4,
                          .lse_base = 10};
    // Plain rows that do not end on 16 bytes go without rounding.
    const bool is_plain = f->type == FATHOM_TYPE_F32 || f->d_k % 8 != 0 || f->d_v % 8 != 0;
    if (f->bits != 0 || (f->type == FATHOM_TYPE_BF16 && !is_plain)) slack.rounded = 0x1p-16;
    if (f->bits == 0 && f->type == FATHOM_TYPE_F16 && !is_plain)
        slack.rounded = 0x1p-22, slack.lost = 0x1p-37;
    return slack;
}

// Score of row j and the bound of its error.
static double score_row(const struct runs_problem *p, const struct slack *slack, const float *q,
                        uint32_t j, double *error)
{
    const uint32_t d = p->args.format.d_k;
    double dot = 0, size = 0, top = 0, q_top = 0, k_size = 0;
    for (uint32_t i = 0; i < d; i++) {
        dot += q[i] * p->k_wide[(size_t)j * d + i];
        size += fabs(q[i]) * p->k_size[(size_t)j * d + i];
        q_top = fmax(q_top, fabs(q[i]));
        k_size += p->k_size[(size_t)j * d + i];
        if (p->args.format.bits != 0) top = fmax(top, fabs(q[i] * (double)p->k_step[i]));
    }
    *error = (slack->score * u + slack->rounded) * size + slack->lost * q_top * k_size;
    if (slack->query_top != 0) *error += top / (2 * slack->query_top) * p->k_codes[j];
    *error *= fabs(p->args.scale);
    return p->args.scale * dot;
}

// Truth and bounds of one query head of one token; scores and errors: [n_rows] to work in.
static void solve_row(struct runs_problem *p, uint32_t token, uint32_t head, double *scores,
                      double *errors)
{
    const struct attend_runs_args *a = &p->args;
    const uint32_t d_v = a->format.d_v;
    size_t row = (size_t)token * a->group + head;
    const struct slack slack = find_slack(p);
    double error = 0;
    double *o = p->o_true + row * d_v, *bound = p->o_bound + row * d_v;
    const float *o_before = p->o_before + (a->o - p->o) + token * a->o_stride + head * d_v;
    double before = p->lse_before[a->lse - p->lse + token * a->lse_stride + head];
    if (!a->accumulate) before = -INFINITY;
    double max = before;
    for (uint32_t j = 0; j < p->n_rows; j++) {
        const float *q = a->q + token * a->q_stride + head * a->format.d_k;
        scores[j] = score_row(p, &slack, q, j, &errors[j]);
        max = fmax(max, scores[j]);
    }
    double sum = max == -INFINITY ? 0 : exp(before - max);
    for (uint32_t j = 0; j < p->n_rows; j++)
        sum += exp(scores[j] - max);
    p->lse_true[row] = max + log(sum);
    for (uint32_t i = 0; i < d_v; i++)
        o[i] = bound[i] = 0;
    for (int64_t j = before == -INFINITY ? 0 : -1; j < p->n_rows; j++) {
        double score = j < 0 ? before : scores[j];
        double weight = exp(score - max) / sum;
        double e = (j < 0 ? 0 : errors[j]) + u * (max - score + slack.below + slack.weight) +
                   slack.rounded;
        error += weight * e;
        for (uint32_t i = 0; i < d_v; i++) {
            o[i] += weight * (j < 0 ? o_before[i] : p->v_wide[(size_t)j * d_v + i]);
            bound[i] += (weight * (e + slack.values * u) + slack.lost) *
                        (j < 0 ? fabs(o_before[i]) : p->v_size[(size_t)j * d_v + i]);
        }
    }
    error += slack.sum * u;
    for (uint32_t i = 0; i < d_v; i++)
        bound[i] = 1.1 * (bound[i] + fabs(o[i]) * error) + 0x1p-140;
    p->lse_bound[row] =
        sum == 0 ? 0 : 1.1 * (error + slack.lse * u * (fabs(p->lse_true[row]) + slack.lse_base));
}

void runs_solve(struct runs_problem *p)
{
    double *scores, *errors;
    check_ok(mem_new(p->n_rows, sizeof *scores, "scores", &scores));
    check_ok(mem_new(p->n_rows, sizeof *errors, "errors", &errors));
    for (uint32_t t = 0; t < p->args.n_tokens; t++)
        for (uint32_t g = 0; g < p->args.group; g++)
            solve_row(p, t, g, scores, errors);
    mem_free(scores);
    mem_free(errors);
}
