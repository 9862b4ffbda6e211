// A problem for the check of attention over runs: random rows in any format, and what becomes of
// them.

#include "tests/kernels/k_runs.h"

#include "tests/check.h"

#include <math.h>
#include <string.h>

#include "cpu/cpu_kernels.h"
#include "src/base/half.h"
#include "src/base/mem.h"

static const float canary = 12345.5f;
enum { MARGIN = 8 }; // canaries before and behind o and lse

uint32_t runs_code(uint32_t bits, const char *codes, uint32_t c)
{
    // Pieces of 16 bytes with 128 / bits channels; byte i has channels i, 16 + i, ...
    uint32_t piece = c / (128 / bits), i = c % 16, slot = c % (128 / bits) / 16;
    uint8_t byte = (uint8_t)codes[piece * 16 + i];
    return (uint32_t)(byte >> slot * bits) % (1u << bits);
}

void runs_v_scale(const char *row, uint32_t group, double *step, double *min)
{
    uint16_t halves[2];
    memcpy(halves, row + 4 * group, 4);
    *step = half_to_float(halves[0]);
    *min = half_to_float(halves[1]);
}

static double get_plain(int32_t type, const char *at)
{
    float wide;
    uint16_t half;
    memcpy(&wide, at, type == FATHOM_TYPE_F32 ? 4 : 2);
    memcpy(&half, at, 2);
    if (type == FATHOM_TYPE_F32) return wide;
    return type == FATHOM_TYPE_F16 ? half_to_float(half) : bf16_to_float(half);
}

static void put_plain(int32_t type, char *at, float x)
{
    uint16_t half = type == FATHOM_TYPE_F16 ? half_from_float(x) : bf16_from_float(x);
    if (type == FATHOM_TYPE_F32)
        memcpy(at, &x, 4);
    else
        memcpy(at, &half, 2);
}

static size_t value_bytes(int32_t type)
{
    return type == FATHOM_TYPE_F32 ? 4 : 2;
}

// Where row j, counted through all runs, begins.
static char *find_row(const struct runs_problem *p, uint32_t j, bool of_k)
{
    const struct kv_run *run = p->runs;
    for (; j >= run->n_rows; run++)
        j -= run->n_rows;
    if (of_k) return p->k + ((const char *)run->k - p->k) + j * kv_k_row_bytes(&p->args.format);
    return p->v + ((const char *)run->v - p->v) + j * kv_v_row_bytes(&p->args.format);
}

// Reads what row j stands for.
static void widen_row(struct runs_problem *p, uint32_t j)
{
    const struct kv_format *f = &p->args.format;
    const char *k = find_row(p, j, true), *v = find_row(p, j, false);
    p->k_codes[j] = 0;
    for (uint32_t i = 0; i < f->d_k; i++) {
        size_t at = (size_t)j * f->d_k + i;
        double rest = f->bits == 0 ? get_plain(f->type, k + i * value_bytes(f->type))
                                   : (double)p->k_step[i] * runs_code(f->bits, k, i);
        double min = f->bits == 0 ? 0 : p->k_min[i];
        p->k_wide[at] = min + rest;
        p->k_size[at] = fabs(min) + fabs(rest);
        if (f->bits != 0) p->k_codes[j] += runs_code(f->bits, k, i);
    }
    const char *codes = v + (f->d_v + 63) / 64 * 4;
    for (uint32_t i = 0; i < f->d_v; i++) {
        size_t at = (size_t)j * f->d_v + i;
        double step = 0, min = 0;
        if (f->bits != 0) runs_v_scale(v, i / 64, &step, &min);
        double rest = f->bits == 0 ? get_plain(f->type, v + i * value_bytes(f->type))
                                   : step * runs_code(f->bits, codes, i);
        p->v_wide[at] = min + rest;
        p->v_size[at] = fabs(min) + fabs(rest);
    }
}

void runs_put_k(struct runs_problem *p, uint32_t j, uint32_t i, float x)
{
    put_plain(p->args.format.type, find_row(p, j, true) + i * value_bytes(p->args.format.type), x);
    widen_row(p, j);
}

void runs_put_v(struct runs_problem *p, uint32_t j, uint32_t i, float x)
{
    put_plain(p->args.format.type, find_row(p, j, false) + i * value_bytes(p->args.format.type), x);
    widen_row(p, j);
}

void runs_scale_v(struct runs_problem *p, float factor)
{
    for (uint32_t j = 0; j < p->n_rows; j++) {
        char *row = find_row(p, j, false);
        for (uint32_t i = 0; i < 2 * ((p->args.format.d_v + 63) / 64); i++) {
            uint16_t half;
            memcpy(&half, row + 2 * i, 2);
            half = half_from_float(factor * half_to_float(half));
            memcpy(row + 2 * i, &half, 2);
        }
        widen_row(p, j);
    }
}

// Normal numbers, and for K a mean for each channel, encoded by the reference.
static void fill_rows(struct runs_problem *p, struct rng *rng)
{
    struct kernel_table ref;
    const struct kv_format *f = &p->args.format;
    float *x, v[256], mean[256] = {0};
    cpu_kernels_init(&ref, 0);
    check_ok(mem_new((size_t)p->n_rows * f->d_k, sizeof *x, "keys", &x));
    for (uint32_t i = 0; i < f->d_k; i++)
        mean[i] = rng_normal(rng);
    for (size_t i = 0; i < (size_t)p->n_rows * f->d_k; i++)
        x[i] = rng_normal(rng) + mean[i % f->d_k];
    if (f->bits != 0) ref.kv.k_range(f->bits, x, p->n_rows, f->d_k, p->k_min, p->k_step);
    for (uint32_t j = 0; j < p->n_rows; j++) {
        for (uint32_t i = 0; i < f->d_v; i++)
            v[i] = rng_normal(rng);
        char *k_row = find_row(p, j, true), *v_row = find_row(p, j, false);
        const float *k = x + (size_t)j * f->d_k;
        if (f->bits != 0) {
            ref.kv.k_encode(f->bits, k, p->k_min, p->k_step, f->d_k, k_row);
            ref.kv.v_encode(f->bits, v, f->d_v, v_row);
        }
        for (uint32_t i = 0; i < f->d_k && f->bits == 0; i++)
            put_plain(f->type, k_row + i * value_bytes(f->type), k[i]);
        for (uint32_t i = 0; i < f->d_v && f->bits == 0; i++)
            put_plain(f->type, v_row + i * value_bytes(f->type), v[i]);
        widen_row(p, j);
    }
    mem_free(x);
}

// Lengths of runs that add up to n_rows, and their places: the last ends where the memory ends.
static void place_runs(struct runs_problem *p, struct rng *rng)
{
    enum { GAP_MAX = 70 };
    const struct kv_format *f = &p->args.format;
    size_t k_bytes = 0, v_bytes = 0, *gaps;
    check_ok(mem_new(p->n_rows, sizeof *p->runs, "runs", &p->runs));
    check_ok(mem_new(2 * p->n_rows, sizeof *gaps, "gaps", &gaps));
    uint32_t n_runs = 0;
    for (uint32_t left = p->n_rows; left > 0; left -= p->runs[n_runs++].n_rows) {
        uint32_t n = 1 + rng_below(rng, p->max_run);
        p->runs[n_runs].n_rows = n < left ? n : left;
        gaps[2 * n_runs] = rng_below(rng, GAP_MAX);
        gaps[2 * n_runs + 1] = rng_below(rng, GAP_MAX);
        k_bytes += gaps[2 * n_runs] + p->runs[n_runs].n_rows * kv_k_row_bytes(f);
        v_bytes += gaps[2 * n_runs + 1] + p->runs[n_runs].n_rows * kv_v_row_bytes(f);
    }
    check_ok(mem_new(k_bytes, 1, "K rows", &p->k));
    check_ok(mem_new(v_bytes, 1, "V rows", &p->v));
    memset(p->k, 0xff, k_bytes);
    memset(p->v, 0xff, v_bytes);
    char *k = p->k, *v = p->v;
    for (uint32_t r = 0; r < n_runs; r++) {
        p->runs[r].k = k += gaps[2 * r];
        p->runs[r].v = v += gaps[2 * r + 1];
        k += p->runs[r].n_rows * kv_k_row_bytes(f);
        v += p->runs[r].n_rows * kv_v_row_bytes(f);
    }
    p->args.runs = p->runs;
    p->args.n_runs = n_runs;
    mem_free(gaps);
}

static void open_outputs(struct runs_problem *p, struct rng *rng)
{
    struct attend_runs_args *a = &p->args;
    size_t n_rows = (size_t)a->n_tokens * a->group, gap = rng_below(rng, 10);
    a->o_stride = a->group * a->format.d_v + gap;
    a->lse_stride = a->group + gap;
    p->o_count = a->n_tokens * a->o_stride + 2 * MARGIN;
    p->lse_count = a->n_tokens * a->lse_stride + 2 * MARGIN;
    check_ok(mem_new(p->o_count, sizeof(float), "o", &p->o));
    check_ok(mem_new(p->lse_count, sizeof(float), "lse", &p->lse));
    check_ok(mem_new(p->o_count, sizeof(float), "o", &p->o_before));
    check_ok(mem_new(p->lse_count, sizeof(float), "lse", &p->lse_before));
    check_ok(mem_new(n_rows * a->format.d_v, sizeof(double), "truth", &p->o_true));
    check_ok(mem_new(n_rows * a->format.d_v, sizeof(double), "bound", &p->o_bound));
    check_ok(mem_new(n_rows, sizeof(double), "truth", &p->lse_true));
    check_ok(mem_new(n_rows, sizeof(double), "bound", &p->lse_bound));
    for (size_t i = 0; i < p->o_count; i++)
        p->o_before[i] = canary;
    for (size_t i = 0; i < p->lse_count; i++)
        p->lse_before[i] = canary;
    a->o = p->o + MARGIN;
    a->lse = p->lse + MARGIN;
    for (uint32_t t = 0; t < a->n_tokens && a->accumulate; t++)
        for (uint32_t g = 0; g < a->group; g++) {
            bool empty = rng_below(rng, 4) == 0;
            float *o = p->o_before + MARGIN + t * a->o_stride + g * a->format.d_v;
            p->lse_before[MARGIN + t * a->lse_stride + g] =
                empty ? -INFINITY : 5 + 3 * rng_normal(rng);
            for (uint32_t i = 0; i < a->format.d_v; i++)
                o[i] = empty ? 0 : rng_normal(rng);
        }
}

const struct kv_format runs_formats[RUNS_FORMATS] = {
    {0, FATHOM_TYPE_F32, 0, 0}, {0, FATHOM_TYPE_F16, 0, 0}, {0, FATHOM_TYPE_BF16, 0, 0},
    {8, FATHOM_TYPE_F16, 0, 0}, {4, FATHOM_TYPE_F16, 0, 0}, {2, FATHOM_TYPE_F32, 0, 0},
};
const uint32_t runs_dims[RUNS_DIMS] = {8, 32, 64, 80, 96, 128, 256};

struct runs_problem runs_case(struct kv_format format, uint32_t d, uint32_t group,
                              uint32_t n_tokens, uint32_t n_rows, uint32_t max_run)
{
    struct runs_problem p = {.n_rows = n_rows, .max_run = max_run};
    p.args.format = format;
    p.args.format.d_k = p.args.format.d_v = d;
    p.args.group = group;
    p.args.n_tokens = n_tokens;
    p.args.scale = (float)(1 / sqrt(d));
    return p;
}

struct runs_problem runs_random_case(struct rng *rng, int n, double most_steps)
{
    static const uint32_t odd_dims[] = {1, 7, 16, 31, 33, 63, 65, 100, 129, 200, 255};
    static const uint32_t groups[] = {1, 2, 3, 4, 5, 7, 8, 16};
    static const uint32_t tokens[] = {1, 2, 33};
    static const uint32_t rows[] = {1, 2, 15, 16, 17, 31, 32, 33, 64, 100, 333, 1000};
    static const uint32_t runs[] = {1, 2, 16, 40, 200};
    const struct kv_format format = PICK(rng, runs_formats);
    const uint32_t d = n % 3 ? PICK(rng, runs_dims) : PICK(rng, odd_dims);
    struct runs_problem p = runs_case(format, d, PICK(rng, groups), PICK(rng, tokens),
                                      PICK(rng, rows), PICK(rng, runs));
    if (n % 4 == 0) p.args.format.d_v = PICK(rng, runs_dims);
    p.args.accumulate = n % 2;
    while (1.0 * p.args.n_tokens * p.args.group * p.n_rows * d > most_steps)
        p.n_rows /= 2;
    return p;
}

void runs_open(struct runs_problem *p, struct rng *rng, float spread)
{
    struct attend_runs_args *a = &p->args;
    const struct kv_format *f = &a->format;
    check_ok(mem_new(f->d_k, sizeof(float), "min", &p->k_min));
    check_ok(mem_new(f->d_k, sizeof(float), "step", &p->k_step));
    check_ok(mem_new((size_t)p->n_rows * f->d_k, sizeof(double), "wide", &p->k_wide));
    check_ok(mem_new((size_t)p->n_rows * f->d_v, sizeof(double), "wide", &p->v_wide));
    check_ok(mem_new((size_t)p->n_rows * f->d_k, sizeof(double), "size", &p->k_size));
    check_ok(mem_new((size_t)p->n_rows * f->d_v, sizeof(double), "size", &p->v_size));
    check_ok(mem_new(p->n_rows, sizeof(double), "codes", &p->k_codes));
    check_ok(mem_new(ATTEND_SCRATCH_BYTES, 1, "scratch", &p->scratch));
    memset(p->scratch, 0xff, ATTEND_SCRATCH_BYTES);
    a->q_stride = a->group * f->d_k + rng_below(rng, 10);
    size_t q_count = (a->n_tokens - 1) * a->q_stride + (size_t)a->group * f->d_k;
    check_ok(mem_new(q_count, sizeof(float), "q", &p->q));
    for (size_t i = 0; i < q_count; i++)
        p->q[i] = rng_normal(rng) * spread;
    place_runs(p, rng);
    fill_rows(p, rng);
    open_outputs(p, rng);
    a->q = p->q;
    a->k_min = f->bits == 0 ? NULL : p->k_min;
    a->k_step = f->bits == 0 ? NULL : p->k_step;
    a->scratch = p->scratch;
}

void runs_close(struct runs_problem *p)
{
    void *blocks[] = {p->q,        p->o,       p->lse,      p->k_min,     p->k_step,
                      p->o_before, p->runs,    p->k,        p->v,         p->scratch,
                      p->k_wide,   p->v_wide,  p->k_size,   p->v_size,    p->lse_before,
                      p->o_true,   p->o_bound, p->lse_true, p->lse_bound, p->k_codes};
    for (uint32_t i = 0; i < COUNT(blocks); i++)
        mem_free(blocks[i]);
}

void runs_run(struct runs_problem *p, const struct kernel_table *table)
{
    memcpy(p->o, p->o_before, p->o_count * sizeof *p->o);
    memcpy(p->lse, p->lse_before, p->lse_count * sizeof *p->lse);
    table->kv.attend_runs(&p->args);
}

static void fail_case(const struct runs_problem *p, const char *variant, const char *what,
                      uint32_t row, uint32_t i, double got, double want, double bound)
{
    const struct attend_runs_args *a = &p->args;
    fail_msg("%s: %s[%u, %u] = %.9g, want %.9g +- %.3g: %u bits, type %d, %u tokens, group %u, "
             "d %u/%u, %u rows in %u runs, accumulate %d",
             variant, what, row, i, got, want, bound, a->format.bits, a->format.type, a->n_tokens,
             a->group, a->format.d_k, a->format.d_v, p->n_rows, a->n_runs, a->accumulate);
}

// One output: canaries beside it, bounds inside. width: values of a token.
static void compare_values(const struct runs_problem *p, const char *variant, const char *what,
                           const float *got, size_t count, size_t stride, uint32_t width,
                           const double *want, const double *bound)
{
    for (size_t at = 0; at < count; at++) {
        size_t t = at < MARGIN ? p->args.n_tokens : (at - MARGIN) / stride;
        size_t c = at < MARGIN ? 0 : (at - MARGIN) % stride;
        if (t >= p->args.n_tokens || c >= width) {
            if (got[at] != canary) fail_case(p, variant, "beside", 0, 0, got[at], canary, 0);
            continue;
        }
        size_t i = t * width + c;
        bool same = got[at] == want[i]; // both -infinity
        if (!same && !(fabs(got[at] - want[i]) <= bound[i]))
            fail_case(p, variant, what, (uint32_t)t, (uint32_t)c, got[at], want[i], bound[i]);
    }
}

void runs_compare(const struct runs_problem *p, const char *variant)
{
    const struct attend_runs_args *a = &p->args;
    compare_values(p, variant, "o", p->o, p->o_count, a->o_stride, a->group * a->format.d_v,
                   p->o_true, p->o_bound);
    compare_values(p, variant, "lse", p->lse, p->lse_count, a->lse_stride, a->group, p->lse_true,
                   p->lse_bound);
}
