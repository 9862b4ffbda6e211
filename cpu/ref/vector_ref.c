// The truth about the vector kernels: norms, rotary, softmax, activations, number types. Sums and
// functions in double, one rounding at the end.
//
// Slow and obviously right; every other variant is checked against this one.

#include "cpu/ladder.h"

#include <math.h>
#include <string.h>

#include "fathom/fathom.h"
#include "src/base/half.h"

static void convert_ref(int32_t type, const float *x, void *out, size_t n)
{
    if (type == FATHOM_TYPE_F32) {
        if (n > 0) memcpy(out, x, n * sizeof *x);
        return;
    }
    uint16_t *halves = out;
    for (size_t i = 0; i < n; i++)
        halves[i] = type == FATHOM_TYPE_F16 ? half_from_float(x[i]) : bf16_from_float(x[i]);
}

static void rmsnorm_ref(const float *x, const float *weight, float *out, size_t n_rows,
                        size_t n_cols, float eps)
{
    for (size_t r = 0; r < n_rows; r++, x += n_cols, out += n_cols) {
        double sum = 0;
        for (size_t c = 0; c < n_cols; c++)
            sum += (double)x[c] * x[c];
        double factor = 1 / sqrt(sum / (double)n_cols + eps);
        for (size_t c = 0; c < n_cols; c++)
            out[c] = (float)(x[c] * factor * weight[c]);
    }
}

static void rope_ref(float *x, const float *cos_sin, uint32_t n_heads, uint32_t d, uint32_t n_rot,
                     int32_t pairing)
{
    if (pairing == FATHOM_ROPE_NONE) return;
    uint32_t n_pairs = n_rot / 2;
    for (uint32_t h = 0; h < n_heads; h++, x += d) {
        for (uint32_t i = 0; i < n_pairs; i++) {
            float *a = pairing == FATHOM_ROPE_ADJACENT ? x + 2 * i : x + i;
            float *b = pairing == FATHOM_ROPE_ADJACENT ? x + 2 * i + 1 : x + i + n_pairs;
            double c = cos_sin[2 * i], s = cos_sin[2 * i + 1];
            double turned = *a * c - *b * s;
            *b = (float)(*a * s + *b * c);
            *a = (float)turned;
        }
    }
}

static void softmax_ref(float *x, size_t n_rows, size_t n_cols)
{
    for (size_t r = 0; r < n_rows; r++, x += n_cols) {
        double max = -INFINITY, sum = 0;
        for (size_t c = 0; c < n_cols; c++)
            if (!(x[c] <= max)) max = isnan(max) ? max : x[c];
        for (size_t c = 0; c < n_cols && max != -INFINITY; c++)
            sum += exp(x[c] - max);
        for (size_t c = 0; c < n_cols; c++)
            x[c] = max == -INFINITY ? 0 : (float)(exp(x[c] - max) / sum);
    }
}

static void swiglu_ref(const float *gate, const float *up, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(gate[i] / (1 + exp(-(double)gate[i])) * up[i]);
}

static void add_ref(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

void vector_ref_fill(struct kernel_table *table)
{
    table->convert = convert_ref;
    table->rmsnorm = rmsnorm_ref;
    table->rope = rope_ref;
    table->softmax = softmax_ref;
    table->swiglu = swiglu_ref;
    table->add = add_ref;
}
