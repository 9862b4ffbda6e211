// A problem for the check of attention: random rows, the truth in double, and how far off a kernel
// may be.
//
// Bounds. u = 2^-24. Write a case's scores s_j, their weights in the result p_j = exp(s_j - lse).
// - A score is a dot product summed over lanes and then across them, scaled: its error is at most
//   d_j = (d_k / 8 + 8) u scale sum_i |q_i k_ji|.
// - Its weight exp(s_j - m): the subtraction and the factors for a growing m err by u (m - s_j)
//   in all, since their steps add up, and by u 4 more because m may lie 4 below the greatest score;
//   each of at most n_blocks + 1 exponentials errs by 2 u and its product by u. So
//   e_j = d_j + u (max - s_j + 4) + 4 u (n_blocks + 1).
// - Weights are summed with at most n_blocks + 16 roundings, values with n_blocks + 65.
// Hence |o - o'| <= sum_j p_j |v_j| (e_j + (n_blocks + 65) u) + |o| (sum_j p_j e_j + (n_blocks +
// 20) u), and |lse - lse'| <= sum_j p_j e_j + (n_blocks + 20) u + u |lse|, in first order; cases
// keep e_j below 0.01 and a tenth is added for the rest.

#include "tests/kernels/k_attend.h"

#include "tests/check.h"

#include <math.h>
#include <string.h>

#include "src/base/half.h"
#include "src/base/mem.h"

static const double u = 0x1p-24;
static const float canary = 12345.5f;
enum {
    BLOCK_KEYS_MIN = 64, // kernels take blocks of at least so many keys
    MARGIN = 8,          // canaries before and behind o and lse
};

static size_t value_bytes(int32_t type)
{
    return type == FATHOM_TYPE_F32 ? 4 : 2;
}

double problem_put(int32_t type, char *at, float x)
{
    if (type == FATHOM_TYPE_F32) {
        memcpy(at, &x, sizeof x);
        return x;
    }
    uint16_t bits = type == FATHOM_TYPE_F16 ? half_from_float(x) : bf16_from_float(x);
    memcpy(at, &bits, sizeof bits);
    return type == FATHOM_TYPE_F16 ? half_to_float(bits) : bf16_to_float(bits);
}

// Rows of random values, stride apart, in a block that ends with the last row; 0xff elsewhere,
// which is NaN in all types.
static void fill_rows(struct rng *rng, int32_t type, uint32_t n_rows, uint32_t d, size_t stride,
                      size_t lead, char **rows, double **wide)
{
    size_t row_bytes = d * value_bytes(type);
    size_t bytes = n_rows == 0 ? lead : lead + (n_rows - 1) * stride + row_bytes;
    check_ok(mem_new(bytes, 1, "rows", rows));
    check_ok(mem_new((size_t)n_rows * d, sizeof **wide, "wide", wide));
    memset(*rows, 0xff, bytes);
    for (uint32_t j = 0; j < n_rows; j++)
        for (uint32_t i = 0; i < d; i++)
            (*wide)[(size_t)j * d + i] = problem_put(
                type, *rows + lead + j * stride + i * value_bytes(type), rng_normal(rng));
}

void problem_open(struct problem *p, struct rng *rng, bool gaps, float spread)
{
    struct attend_args *a = &p->args;
    size_t lead = gaps ? value_bytes(a->kv_type) : 0, n_rows = (size_t)a->n_tokens * a->group;
    size_t gap = gaps ? 1 + rng_below(rng, 9) : 0;
    a->k_stride_bytes = (a->d_k + gap) * value_bytes(a->kv_type);
    a->v_stride_bytes = (a->d_v + 2 * gap) * value_bytes(a->kv_type);
    a->q_stride = a->group * a->d_k + gap;
    a->o_stride = a->group * a->d_v + gap;
    a->lse_stride = a->group + gap;
    fill_rows(rng, a->kv_type, a->n_keys, a->d_k, a->k_stride_bytes, lead, &p->k, &p->k_wide);
    fill_rows(rng, a->kv_type, a->n_keys, a->d_v, a->v_stride_bytes, lead, &p->v, &p->v_wide);
    a->k = p->k + lead;
    a->v = p->v + lead;

    p->o_count = a->n_tokens * a->o_stride + 2 * MARGIN;
    p->lse_count = a->n_tokens * a->lse_stride + 2 * MARGIN;
    size_t q_count = (a->n_tokens - 1) * a->q_stride + (size_t)a->group * a->d_k;
    check_ok(mem_new(q_count, sizeof(float), "q", &p->q));
    check_ok(mem_new(p->o_count, sizeof(float), "o", &p->o));
    check_ok(mem_new(p->lse_count, sizeof(float), "lse", &p->lse));
    check_ok(mem_new(ATTEND_SCRATCH_BYTES, 1, "scratch", &p->scratch));
    check_ok(mem_new(n_rows * a->d_v, sizeof(double), "truth", &p->o_true));
    check_ok(mem_new(n_rows * a->d_v, sizeof(double), "bound", &p->o_bound));
    check_ok(mem_new(n_rows, sizeof(double), "truth", &p->lse_true));
    check_ok(mem_new(n_rows, sizeof(double), "bound", &p->lse_bound));
    for (size_t i = 0; i < q_count; i++)
        p->q[i] = rng_normal(rng) * spread;
    a->q = p->q;
    a->o = p->o + MARGIN;
    a->lse = p->lse + MARGIN;
    a->scratch = p->scratch;
}

void problem_close(struct problem *p)
{
    void *blocks[] = {p->q,      p->o,      p->lse,    p->k,       p->v,        p->scratch,
                      p->k_wide, p->v_wide, p->o_true, p->o_bound, p->lse_true, p->lse_bound};
    for (uint32_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        mem_free(blocks[i]);
}

static bool sees(const struct attend_args *a, uint32_t token, int64_t key)
{
    if (key >= a->n_visible + token) return false;
    return a->n_window == 0 || key + a->n_window >= a->n_visible + token;
}

// Truth and bounds of one row; scores and terms: [n_keys] to work in.
static void solve_row(struct problem *p, uint32_t token, uint32_t head, double *scores,
                      double *errors)
{
    const struct attend_args *a = &p->args;
    const float *q = a->q + token * a->q_stride + head * a->d_k;
    size_t row = (size_t)token * a->group + head;
    double max = -INFINITY, sum = 0, error = 0, n_blocks = a->n_keys / BLOCK_KEYS_MIN + 1;
    double *o = p->o_true + row * a->d_v, *bound = p->o_bound + row * a->d_v;
    for (uint32_t j = 0; j < a->n_keys; j++) {
        if (!sees(a, token, j)) continue;
        double dot = 0, size = 0;
        for (uint32_t i = 0; i < a->d_k; i++) {
            double term = q[i] * p->k_wide[(size_t)j * a->d_k + i];
            dot += term;
            size += fabs(term);
        }
        scores[j] = a->scale * dot;
        errors[j] = (a->d_k / 8 + 8) * u * fabs(a->scale) * size;
        max = fmax(max, scores[j]);
    }
    for (uint32_t i = 0; i < a->d_v; i++)
        o[i] = bound[i] = 0;
    for (uint32_t j = 0; j < a->n_keys; j++)
        if (sees(a, token, j)) sum += exp(scores[j] - max);
    p->lse_true[row] = max + log(sum);
    for (uint32_t j = 0; j < a->n_keys && sum > 0; j++) {
        if (!sees(a, token, j)) continue;
        double weight = exp(scores[j] - max) / sum;
        double e = errors[j] + u * (max - scores[j] + 4) + 4 * u * (n_blocks + 1);
        error += weight * e;
        for (uint32_t i = 0; i < a->d_v; i++) {
            double term = weight * p->v_wide[(size_t)j * a->d_v + i];
            o[i] += term;
            bound[i] += fabs(term) * (e + (n_blocks + 65) * u);
        }
    }
    error += (n_blocks + 20) * u;
    for (uint32_t i = 0; i < a->d_v; i++)
        bound[i] = 1.1 * (bound[i] + fabs(o[i]) * error) + 0x1p-140;
    p->lse_bound[row] = sum == 0 ? 0 : 1.1 * (error + u * fabs(p->lse_true[row]));
}

void problem_solve(struct problem *p)
{
    double *scores, *errors;
    check_ok(mem_new(p->args.n_keys, sizeof *scores, "scores", &scores));
    check_ok(mem_new(p->args.n_keys, sizeof *errors, "errors", &errors));
    for (uint32_t t = 0; t < p->args.n_tokens; t++)
        for (uint32_t g = 0; g < p->args.group; g++)
            solve_row(p, t, g, scores, errors);
    mem_free(scores);
    mem_free(errors);
}

void problem_run(struct problem *p, const struct kernel_table *table)
{
    for (size_t i = 0; i < p->o_count; i++)
        p->o[i] = canary;
    for (size_t i = 0; i < p->lse_count; i++)
        p->lse[i] = canary;
    table->attend(&p->args);
}

static void fail_case(const struct problem *p, const char *variant, const char *what, uint32_t row,
                      uint32_t i, double got, double want, double bound)
{
    const struct attend_args *a = &p->args;
    fail_msg("%s: %s[%u, %u] = %.9g, want %.9g +- %.3g: type %d, %u tokens, group %u, d %u/%u, %u "
             "keys, visible %lld, window %u",
             variant, what, row, i, got, want, bound, a->kv_type, a->n_tokens, a->group, a->d_k,
             a->d_v, a->n_keys, (long long)a->n_visible, a->n_window);
}

void problem_compare(const struct problem *p, const char *variant, double slack)
{
    const struct attend_args *a = &p->args;
    uint32_t width = a->group * a->d_v;
    for (size_t at = 0; at < p->o_count; at++) {
        size_t t = at < MARGIN ? a->n_tokens : (at - MARGIN) / a->o_stride;
        size_t c = at < MARGIN ? 0 : (at - MARGIN) % a->o_stride;
        if (t >= a->n_tokens || c >= width) {
            if (p->o[at] != canary) fail_case(p, variant, "beside o", 0, 0, p->o[at], canary, 0);
            continue;
        }
        size_t i = t * width + c;
        if (!(fabs(p->o[at] - p->o_true[i]) <= slack * p->o_bound[i]))
            fail_case(p, variant, "o", (uint32_t)(i / a->d_v), (uint32_t)(i % a->d_v), p->o[at],
                      p->o_true[i], slack * p->o_bound[i]);
    }
    for (size_t at = 0; at < p->lse_count; at++) {
        size_t t = at < MARGIN ? a->n_tokens : (at - MARGIN) / a->lse_stride;
        size_t g = at < MARGIN ? 0 : (at - MARGIN) % a->lse_stride;
        if (t >= a->n_tokens || g >= a->group) {
            if (p->lse[at] != canary)
                fail_case(p, variant, "beside lse", 0, 0, p->lse[at], canary, 0);
            continue;
        }
        size_t i = t * a->group + g;
        bool same = p->lse[at] == p->lse_true[i]; // both -infinity
        if (!same && !(fabs(p->lse[at] - p->lse_true[i]) <= slack * p->lse_bound[i]))
            fail_case(p, variant, "lse", (uint32_t)i, 0, p->lse[at], p->lse_true[i],
                      slack * p->lse_bound[i]);
    }
}
