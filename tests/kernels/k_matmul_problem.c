// Problems for the check of the matrix products: random weights and activations, their product in
// double, and the sums that bounds are made of (see k_matmul.c).

#include <math.h>
#include <string.h>

#include "src/base/dtype.h"
#include "src/base/half.h"
#include "src/base/mem.h"
#include "src/base/quants.h"
#include "tests/check.h"
#include "tests/kernels/k_matmul.h"

enum { GROUP = 32 }; // values of x that share a scale

static uint16_t random_scale(struct rng *rng)
{
    uint32_t kind = rng_below(rng, 32);
    if (kind == 0) return rng_below(rng, 2) == 0 ? 0 : 0x8000;
    if (kind == 1) return (uint16_t)(rng_below(rng, 2) << 15 | rng_below(rng, 0x400));
    return half_from_float(0.01f * rng_normal(rng));
}

void problem_random_rows(int32_t type, void *rows, uint32_t n_rows, uint32_t n_cols,
                         struct rng *rng)
{
    struct quant_form form = quant_form_of(type);
    uint8_t *at = rows;
    size_t n_values = (size_t)n_rows * n_cols;
    if (form.block_values == 0) {
        for (size_t i = 0; i < n_values; i++) {
            float value = rng_normal(rng);
            uint16_t f16 = half_from_float(value);
            uint16_t bf16 = bf16_from_float(value);
            if (type == FATHOM_TYPE_F32) memcpy(at + 4 * i, &value, 4);
            if (type == FATHOM_TYPE_F16) memcpy(at + 2 * i, &f16, 2);
            if (type == FATHOM_TYPE_BF16) memcpy(at + 2 * i, &bf16, 2);
        }
        return;
    }
    for (size_t i = 0; i < n_values / form.block_values; i++, at += form.block_bytes) {
        uint16_t d = random_scale(rng);
        uint16_t dmin = random_scale(rng);
        for (uint32_t j = 0; j < form.block_bytes; j++)
            at[j] = (uint8_t)rng_u64(rng);
        memcpy(at + (type == FATHOM_TYPE_Q6_K ? 208 : 0), &d, 2);
        if (form.has_min) memcpy(at + 2, &dmin, 2);
    }
}

// Every eighth token is zeros; others lie on the grids of 8 and 15 bits and of bf16, hold a huge
// value, or are tiny.
static void fill_token(float *x, uint32_t token, uint32_t n_cols, struct rng *rng)
{
    for (uint32_t i = 0; i < n_cols; i++) {
        x[i] = rng_normal(rng);
        if (token % 8 == 2) x[i] = 0.0f;
        if (token % 8 == 3 || token % 8 == 6)
            x[i] = i % GROUP == 5 ? 127.0f : (float)((int)rng_below(rng, 255) - 127);
        if (token % 8 == 5) x[i] *= 1e-30f;
        if (token % 8 == 7 && i / GROUP % 2 == 1) x[i] = 0.0f;
    }
    if (token % 8 == 4) x[rng_below(rng, n_cols)] = -1e25f;
}

// e_i of the head comment, for kernels with quantised weights. A value near the middle of two
// integers may go either way.
static void grid_errors(const float *x, uint32_t n_levels, double *errors, uint32_t n_cols)
{
    for (uint32_t begin = 0; begin < n_cols; begin += GROUP) {
        uint32_t end = begin + GROUP < n_cols ? begin + GROUP : n_cols;
        double max = 0.0;
        for (uint32_t i = begin; i < end; i++)
            max = fmax(max, fabs((double)x[i]));
        double scale = max / n_levels;
        for (uint32_t i = begin; i < end; i++)
            errors[i] = max > 0.0 ? fabs((double)x[i] - scale * rint((double)x[i] / scale)) : 0.0;
        for (uint32_t i = begin; i < end; i++)
            errors[i] += scale * n_levels * 0x1p-21;
    }
}

// The same for kernels with BF16 weights.
static void bf16_errors(const float *x, double *errors, uint32_t n_cols)
{
    for (uint32_t i = 0; i < n_cols; i++)
        errors[i] = fabs((double)x[i] - (double)bf16_to_float(bf16_from_float(x[i])));
}

// w_i as the reference has it, and m_i of the head comment.
static void read_weights(const struct problem *p, uint32_t row, float *w, double *parts)
{
    struct quant_form form = quant_form_of(p->type);
    const uint8_t *bytes = p->rows + row * p->row_bytes;
    struct quant_block block = {0};
    struct kernel_table table;
    cpu_kernels_init(&table, 0);
    table.dequant_row(p->type, bytes, w, p->n_cols);
    for (uint32_t i = 0; i < p->n_cols && form.block_values == 0; i++)
        parts[i] = fabs((double)w[i]);
    for (uint32_t i = 0; i < p->n_cols && form.block_values > 0; i++) {
        bool is_k = form.block_values == QUANT_BLOCK_MAX;
        uint32_t at = i % form.block_values;
        if (at == 0)
            quant_unpack(p->type, bytes + i / form.block_values * form.block_bytes, &block);
        double scale = (double)half_to_float(block.d);
        double offset = form.has_min ? (double)half_to_float(block.dmin) : 0.0;
        if (is_k) scale *= block.scale[at / form.sub_values];
        if (is_k && form.has_min) offset *= block.min[at / form.sub_values];
        parts[i] = fabs(scale) * (block.u[at] + form.zero) + fabs(offset);
    }
}

static void solve(struct problem *p)
{
    double *parts, *errors[2];
    float *w;
    for (int bits = 0; bits < 2; bits++)
        check_ok(mem_new((size_t)p->n_cols * MAX_TOKENS, sizeof(double), "errors", &errors[bits]));
    check_ok(mem_new(p->n_cols, sizeof *parts, "parts", &parts));
    check_ok(mem_new(p->n_cols, sizeof *w, "weights", &w));
    for (size_t t = 0; t < MAX_TOKENS; t++) {
        const size_t at = t * p->n_cols;
        for (int bits = 0; bits < 2; bits++)
            if (p->type == FATHOM_TYPE_BF16)
                bf16_errors(p->x + at, errors[bits] + at, p->n_cols);
            else
                grid_errors(p->x + at, bits == 0 ? 127 : 127 * 128, errors[bits] + at, p->n_cols);
    }
    for (uint32_t r = 0; r < MAX_ROWS; r++) {
        read_weights(p, r, w, parts);
        for (uint32_t i = 0; i < p->n_cols; i++)
            p->w_sum[r] += fabs((double)w[i]);
        for (size_t t = 0; t < MAX_TOKENS; t++) {
            const float *x = p->x + t * p->n_cols;
            const double *e_8 = errors[0] + t * p->n_cols, *e_15 = errors[1] + t * p->n_cols;
            double sums[4] = {0};
            for (uint32_t i = 0; i < p->n_cols; i++) {
                sums[0] += (double)x[i] * (double)w[i];
                sums[1] += fabs((double)x[i]) * parts[i];
                sums[2] += e_8[i] * fabs((double)w[i]);
                sums[3] += e_15[i] * fabs((double)w[i]);
            }
            p->truth[t * MAX_ROWS + r] = sums[0];
            p->parts[t * MAX_ROWS + r] = sums[1];
            p->errors_8[t * MAX_ROWS + r] = sums[2];
            p->errors_15[t * MAX_ROWS + r] = sums[3];
        }
    }
    mem_free(errors[0]);
    mem_free(errors[1]);
    mem_free(parts);
    mem_free(w);
}

void problem_open(struct problem *p, int32_t type, uint32_t n_cols)
{
    const size_t n_out = (size_t)MAX_TOKENS * MAX_ROWS;
    struct rng rng;
    rng_init(&rng, SEED + (uint64_t)type * 10000 + n_cols);
    *p = (struct problem){.type = type, .n_cols = n_cols};
    p->row_bytes = dtype_row_bytes(type, n_cols);
    check_ok(mem_new(MAX_ROWS, p->row_bytes, "rows", &p->rows));
    check_ok(mem_new((size_t)MAX_TOKENS * n_cols, sizeof *p->x, "x", &p->x));
    check_ok(mem_new(MAX_ROWS, sizeof *p->bias, "bias", &p->bias));
    check_ok(mem_new(n_out, sizeof *p->truth, "truth", &p->truth));
    check_ok(mem_new(n_out, sizeof *p->parts, "parts", &p->parts));
    check_ok(mem_new(n_out, sizeof *p->errors_8, "errors", &p->errors_8));
    check_ok(mem_new(n_out, sizeof *p->errors_15, "errors", &p->errors_15));
    check_ok(mem_new(MAX_ROWS, sizeof *p->w_sum, "w_sum", &p->w_sum));
    problem_random_rows(type, p->rows, MAX_ROWS, n_cols, &rng);
    for (uint32_t t = 0; t < MAX_TOKENS; t++)
        fill_token(p->x + (size_t)t * n_cols, t, n_cols, &rng);
    for (uint32_t r = 0; r < MAX_ROWS; r++)
        p->bias[r] = rng_normal(&rng);
    solve(p);
}

void problem_close(struct problem *p)
{
    void *blocks[] = {p->rows,  p->x,        p->bias,      p->truth,
                      p->parts, p->errors_8, p->errors_15, p->w_sum};
    for (size_t i = 0; i < COUNT(blocks); i++)
        mem_free(blocks[i]);
}
