// A problem for the check of dense attention on the device: random rows, the truth in double from
// the contract's formulas, and how far off a kernel may be.
//
// Bounds. u = 2^-24; h is half a unit of rows in 16 bits where prefill rounds queries and weights
// to them (2^-11 f16, 2^-8 bf16), w what two such halves leave in decoding (2^-22, 2^-16). Write a
// row's scores s_j, their weights in the result p_j = exp(s_j - lse).
// - A rotated query errs by 4 u (|a cos| + |b sin|). A product of matrices sums 16 terms with 17
//   roundings that may be cut off, 2 u each; so a score errs by at most d_j = (h + w + (2.2 d_k +
//   24) u) scale sum_i q_size_i |k_ji|, and what is below the smallest f16, 2^-37 scale max |q| sum
//   |k|.
// - Its weight: differences of scores err by u (max - s_j + 20), as 2^x is given a reference 9
// below
//   the greatest (13 in powers of two). Each of at most n_blocks + 2 exponentials errs by 4 u (the
//   CUDA manual: 2 ulp) and its product by u: a new greatest score at most every 16 keys. Rounded
//   to h or w. So e_j = d_j + u (max - s_j + 20) + 6 u (n_blocks + 2) + h + w.
// - Weights are summed with at most n + 30 roundings, n keys; values with 2.2 n + 80, merging in
// it;
//   weights below the smallest f16 are lost: 2^-37.
// Hence |o - o'| <= sum_j p_j |v_j| (e_j + (2.2 n + 80) u) + |o| (sum_j p_j e_j + (n + 30) u) +
// 2^-37 sum_j |v_j|, and |lse - lse'| <= sum_j p_j e_j + (n + 30) u + 4 u (|lse| + 10), in first
// order; a tenth is added for the rest.

#include "tests/gpu/k_attend_cuda.h"

#include "tests/gpu/gpu_rig.h"

#include <math.h>

#include "fathom/fathom.h"
#include "gpu/attend_cuda.h"
#include "src/base/half.h"
#include "src/base/mem.h"

static const double u = 0x1p-24;

static size_t value_bytes(int32_t type)
{
    return type == FATHOM_TYPE_F32 ? 4 : 2;
}

static double put_value(int32_t type, char *at, float x)
{
    if (type == FATHOM_TYPE_F32) {
        memcpy(at, &x, sizeof x);
        return x;
    }
    uint16_t bits = type == FATHOM_TYPE_F16 ? half_from_float(x) : bf16_from_float(x);
    memcpy(at, &bits, sizeof bits);
    return type == FATHOM_TYPE_F16 ? half_to_float(bits) : bf16_to_float(bits);
}

void dense_put_k(struct dense_problem *p, uint32_t kv_head, uint32_t j, uint32_t i, float x)
{
    const struct dense_attend_args *a = &p->args;
    char *row = p->k + p->lead + kv_head * a->k_head_stride_bytes + j * a->k_row_bytes;
    p->k_wide[((size_t)kv_head * a->n_keys + j) * a->d_k + i] =
        put_value(a->kv_type, row + i * value_bytes(a->kv_type), x);
}

void dense_put_v(struct dense_problem *p, uint32_t kv_head, uint32_t j, uint32_t i, float x)
{
    const struct dense_attend_args *a = &p->args;
    char *row = p->v + p->lead + kv_head * a->v_head_stride_bytes + j * a->v_row_bytes;
    p->v_wide[((size_t)kv_head * a->n_keys + j) * a->d_v + i] =
        put_value(a->kv_type, row + i * value_bytes(a->kv_type), x);
}

// Bytes of all rows, of which the last ends where the memory does.
static size_t rows_bytes(const struct dense_problem *p, size_t head_stride, size_t row, uint32_t d)
{
    const struct dense_attend_args *a = &p->args;
    if (a->n_keys == 0) return p->lead + value_bytes(a->kv_type);
    return p->lead + (a->n_kv_heads - 1) * head_stride + (a->n_keys - 1) * row +
           d * value_bytes(a->kv_type);
}

static void open_rows(struct dense_problem *p, struct rng *rng, bool gaps)
{
    struct dense_attend_args *a = &p->args;
    const size_t bytes = value_bytes(a->kv_type), gap = gaps ? 1 + rng_below(rng, 9) : 0;
    p->lead = gaps ? bytes : 0;
    a->k_row_bytes = (a->d_k + gap) * bytes;
    a->v_row_bytes = (a->d_v + 2 * gap) * bytes;
    a->k_head_stride_bytes = a->n_keys * a->k_row_bytes + gap * bytes;
    a->v_head_stride_bytes = a->n_keys * a->v_row_bytes + gap * bytes;
    p->k_bytes = rows_bytes(p, a->k_head_stride_bytes, a->k_row_bytes, a->d_k);
    p->v_bytes = rows_bytes(p, a->v_head_stride_bytes, a->v_row_bytes, a->d_v);
    check_ok(mem_new(p->k_bytes, 1, "keys", &p->k));
    check_ok(mem_new(p->v_bytes, 1, "values", &p->v));
    memset(p->k, 0xff, p->k_bytes);
    memset(p->v, 0xff, p->v_bytes);
    const size_t n_rows = (size_t)a->n_kv_heads * a->n_keys;
    check_ok(mem_new(n_rows * a->d_k, sizeof(double), "keys", &p->k_wide));
    check_ok(mem_new(n_rows * a->d_v, sizeof(double), "values", &p->v_wide));
    for (uint32_t h = 0; h < a->n_kv_heads; h++)
        for (uint32_t j = 0; j < a->n_keys; j++) {
            for (uint32_t i = 0; i < a->d_k; i++)
                dense_put_k(p, h, j, i, rng_normal(rng));
            for (uint32_t i = 0; i < a->d_v; i++)
                dense_put_v(p, h, j, i, rng_normal(rng));
        }
}

void dense_open(struct dense_problem *p, struct rng *rng, bool gaps, float spread)
{
    struct dense_attend_args *a = &p->args;
    const size_t n_rows = (size_t)a->n_tokens * a->n_heads, q_count = n_rows * a->d_k;
    const size_t n_angles = (size_t)a->n_tokens * a->n_rot / 2;
    open_rows(p, rng, gaps);
    check_ok(mem_new(q_count, sizeof(float), "q", &p->q));
    check_ok(mem_new(q_count, sizeof(double), "q", &p->q_wide));
    check_ok(mem_new(q_count, sizeof(double), "q", &p->q_size));
    check_ok(mem_new(2 * n_angles, sizeof(float), "angles", &p->cos_sin));
    check_ok(mem_new(n_rows * a->d_v, sizeof(float), "o", &p->o));
    check_ok(mem_new(n_rows, sizeof(float), "lse", &p->lse));
    check_ok(mem_new(n_rows * a->d_v, sizeof(double), "truth", &p->o_true));
    check_ok(mem_new(n_rows * a->d_v, sizeof(double), "bound", &p->o_bound));
    check_ok(mem_new(n_rows, sizeof(double), "truth", &p->lse_true));
    check_ok(mem_new(n_rows, sizeof(double), "bound", &p->lse_bound));
    for (size_t i = 0; i < q_count; i++)
        p->q[i] = rng_normal(rng) * spread;
    for (size_t i = 0; i < n_angles; i++) {
        const double angle = 6.2832 * rng_unit(rng);
        p->cos_sin[2 * i] = (float)cos(angle);
        p->cos_sin[2 * i + 1] = (float)sin(angle);
    }
}

void dense_close(struct dense_problem *p)
{
    void *blocks[] = {p->q,      p->cos_sin, p->k,        p->v,        p->o,
                      p->lse,    p->q_wide,  p->q_size,   p->k_wide,   p->v_wide,
                      p->o_true, p->o_bound, p->lse_true, p->lse_bound};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        mem_free(blocks[i]);
}

// One vector of a query, in double.
static void turn_query(struct dense_problem *p, size_t token, size_t vector)
{
    const struct dense_attend_args *a = &p->args;
    const float *q = p->q + vector * a->d_k;
    double *wide = p->q_wide + vector * a->d_k, *size = p->q_size + vector * a->d_k;
    const uint32_t n_pairs = a->pairing == FATHOM_ROPE_NONE ? 0 : a->n_rot / 2;
    for (uint32_t i = 0; i < a->d_k; i++) {
        wide[i] = q[i];
        size[i] = fabs((double)q[i]);
    }
    for (uint32_t i = 0; i < n_pairs; i++) {
        const bool adjacent = a->pairing == FATHOM_ROPE_ADJACENT;
        const uint32_t at = adjacent ? 2 * i : i, to = adjacent ? 2 * i + 1 : i + n_pairs;
        const double c = p->cos_sin[2 * (token * n_pairs + i)];
        const double s = p->cos_sin[2 * (token * n_pairs + i) + 1];
        wide[at] = q[at] * c - q[to] * s;
        wide[to] = q[at] * s + q[to] * c;
        size[at] = fabs(q[at] * c) + fabs(q[to] * s);
        size[to] = fabs(q[at] * s) + fabs(q[to] * c);
    }
}

// h and w of the head comment. What is not aligned, and f32, goes without rounding.
static double rounding(const struct dense_problem *p)
{
    enum { DECODE_ROWS_MAX = 32 };
    const struct dense_attend_args *a = &p->args;
    const bool is_f16 = a->kv_type == FATHOM_TYPE_F16;
    if (a->kv_type == FATHOM_TYPE_F32) return 0;
    if (a->n_tokens * (a->n_heads / a->n_kv_heads) > DECODE_ROWS_MAX)
        return p->lead != 0 ? 0 : is_f16 ? 0x1p-11 : 0x1p-8;
    return is_f16 ? 0x1p-22 : 0x1p-16;
}

// Score of a key and the bound of its error.
static double score_key(const struct dense_problem *p, size_t vector, uint32_t kv_head, uint32_t j,
                        double *error)
{
    const struct dense_attend_args *a = &p->args;
    const double *q = p->q_wide + vector * a->d_k, *q_size = p->q_size + vector * a->d_k;
    const double *k = p->k_wide + ((size_t)kv_head * a->n_keys + j) * a->d_k;
    double dot = 0, size = 0, q_max = 0, k_size = 0;
    for (uint32_t i = 0; i < a->d_k; i++) {
        dot += q[i] * k[i];
        size += q_size[i] * fabs(k[i]);
        q_max = fmax(q_max, q_size[i]);
        k_size += fabs(k[i]);
    }
    *error = fabs((double)a->scale) *
             ((rounding(p) + (2.2 * a->d_k + 24) * u) * size + 0x1p-37 * q_max * k_size);
    return a->scale * dot;
}

static void solve_row(struct dense_problem *p, uint32_t token, uint32_t head, double *scores,
                      double *errors)
{
    const struct dense_attend_args *a = &p->args;
    const uint32_t kv_head = head / (a->n_heads / a->n_kv_heads);
    const size_t row = (size_t)token * a->n_heads + head;
    const int64_t end = (int64_t)a->n_keys - a->n_tokens + token + 1;
    const int64_t begin = a->n_window != 0 && a->n_window < end ? end - a->n_window : 0;
    double *o = p->o_true + row * a->d_v, *bound = p->o_bound + row * a->d_v;
    double max = -INFINITY, sum = 0, error = 0, n = (double)(end - begin), n_blocks = n / 16 + 1;
    for (int64_t j = begin; j < end; j++) {
        scores[j] = score_key(p, row, kv_head, (uint32_t)j, &errors[j]);
        max = fmax(max, scores[j]);
    }
    for (uint32_t i = 0; i < a->d_v; i++)
        o[i] = bound[i] = 0;
    for (int64_t j = begin; j < end; j++)
        sum += exp(scores[j] - max);
    p->lse_true[row] = sum == 0 ? -INFINITY : max + log(sum);
    for (int64_t j = begin; j < end; j++) {
        const double *v = p->v_wide + ((size_t)kv_head * a->n_keys + (size_t)j) * a->d_v;
        const double weight = exp(scores[j] - max) / sum;
        const double e =
            errors[j] + u * (max - scores[j] + 20) + 6 * u * (n_blocks + 2) + rounding(p);
        error += weight * e;
        for (uint32_t i = 0; i < a->d_v; i++) {
            o[i] += weight * v[i];
            bound[i] += fabs(v[i]) * (weight * (e + (2.2 * n + 80) * u) + 0x1p-37);
        }
    }
    error += (n + 30) * u;
    for (uint32_t i = 0; i < a->d_v; i++)
        bound[i] = 1.1 * (bound[i] + fabs(o[i]) * error) + 0x1p-140;
    p->lse_bound[row] = sum == 0 ? 0 : 1.1 * (error + 4 * u * (fabs(p->lse_true[row]) + 10));
}

void dense_solve(struct dense_problem *p)
{
    const struct dense_attend_args *a = &p->args;
    double *scores, *errors;
    check_ok(mem_new(a->n_keys, sizeof *scores, "scores", &scores));
    check_ok(mem_new(a->n_keys, sizeof *errors, "errors", &errors));
    for (uint32_t t = 0; t < a->n_tokens; t++)
        for (uint32_t h = 0; h < a->n_heads; h++) {
            turn_query(p, t, (size_t)t * a->n_heads + h);
            solve_row(p, t, h, scores, errors);
        }
    mem_free(scores);
    mem_free(errors);
}

void dense_run(struct dense_problem *p, bool with_lse)
{
    struct dense_attend_args *a = &p->args;
    const size_t n_rows = (size_t)a->n_tokens * a->n_heads;
    const size_t n_angles = (size_t)a->n_tokens * a->n_rot / 2;
    const size_t scratch_bytes = attend_dense_cuda_bytes(a, p->n_sms);
    assert_true(scratch_bytes <= (size_t)ATTEND_CUDA_SM_BYTES * p->n_sms);
    char *dev_k = gpu_put(p->k, p->k_bytes), *dev_v = gpu_put(p->v, p->v_bytes);
    float *dev_q = gpu_put(p->q, n_rows * a->d_k * sizeof(float));
    float *dev_angles = n_angles == 0 ? NULL : gpu_put(p->cos_sin, 2 * n_angles * sizeof(float));
    float *dev_o = gpu_new(n_rows * a->d_v * sizeof(float));
    float *dev_lse = with_lse ? gpu_new(n_rows * sizeof(float)) : NULL;
    void *dev_scratch = scratch_bytes == 0 ? NULL : gpu_new(scratch_bytes);
    uint32_t *dev_n_keys = p->said_keys == 0 ? NULL : gpu_put(&a->n_keys, sizeof a->n_keys);
    a->dev_k = dev_k + p->lead;
    a->dev_v = dev_v + p->lead;
    a->dev_q = dev_q;
    a->dev_cos_sin = dev_angles;
    a->dev_out = dev_o;
    a->dev_lse = dev_lse;
    struct dense_attend_args said = *a;
    if (p->said_keys > 0) said.n_keys = p->said_keys;
    gpu_ok(attend_dense_cuda(&said, dev_n_keys, p->n_sms, dev_scratch, NULL));
    gpu_take(p->o, dev_o, n_rows * a->d_v * sizeof(float));
    if (with_lse) gpu_take(p->lse, dev_lse, n_rows * sizeof(float));
    void *blocks[] = {dev_k, dev_v, dev_q, dev_angles, dev_scratch, dev_n_keys};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        gpu_ok(cudaFree(blocks[i]));
}

static void check_value(const struct dense_problem *p, const char *what, size_t row, size_t i,
                        double got, double want, double bound)
{
    const struct dense_attend_args *a = &p->args;
    if (got == want || fabs(got - want) <= bound) return; // equal: both -infinity
    fail_msg("%s[%zu, %zu] = %.9g, want %.9g +- %.3g: type %d, lead %zu, %u tokens, heads %u/%u, d "
             "%u/%u, rot %u, %u keys, window %u, %u multiprocessors",
             what, row, i, got, want, bound, a->kv_type, p->lead, a->n_tokens, a->n_heads,
             a->n_kv_heads, a->d_k, a->d_v, a->n_rot, a->n_keys, a->n_window, p->n_sms);
}

void dense_compare(const struct dense_problem *p, bool with_lse)
{
    const struct dense_attend_args *a = &p->args;
    const size_t n_rows = (size_t)a->n_tokens * a->n_heads;
    for (size_t row = 0; row < n_rows; row++) {
        for (size_t i = 0; i < a->d_v; i++) {
            const size_t at = row * a->d_v + i;
            check_value(p, "o", row, i, p->o[at], p->o_true[at], p->o_bound[at]);
        }
        if (with_lse)
            check_value(p, "lse", row, 0, p->lse[row], p->lse_true[row], p->lse_bound[row]);
    }
}
