// The truth about attention: two passes over the keys (maximum, then sums), everything in double.
//
// Slow and obviously right; every other attend and merge is checked against this one. The only
// state is what the arguments point to, so any thread may call it.

#include "cpu/ladder.h"

#include <math.h>
#include <string.h>

#include "src/base/half.h"

static double read_value(int32_t type, const void *row, uint32_t i)
{
    if (type == FATHOM_TYPE_F32) {
        float value;
        memcpy(&value, (const char *)row + i * sizeof value, sizeof value);
        return value;
    }
    uint16_t bits;
    memcpy(&bits, (const char *)row + i * sizeof bits, sizeof bits);
    return type == FATHOM_TYPE_F16 ? half_to_float(bits) : bf16_to_float(bits);
}

static double score_key(const struct attend_args *a, const float *q, uint32_t key)
{
    const char *k = (const char *)a->k + key * a->k_stride_bytes;
    double sum = 0;
    for (uint32_t i = 0; i < a->d_k; i++)
        sum += (double)q[i] * read_value(a->kv_type, k, i);
    return a->scale * sum;
}

// The larger one; NaN if there is one.
static double max_or_nan(double a, double b)
{
    if (isnan(a)) return a;
    return a > b ? a : b;
}

// One query head of one token, over keys begin .. end.
static void attend_row(const struct attend_args *a, uint32_t begin, uint32_t end, const float *q,
                       float *o, float *lse)
{
    double max = -INFINITY;
    for (uint32_t key = begin; key < end; key++)
        max = max_or_nan(max, score_key(a, q, key));

    double sum = 0;
    double sums[256] = {0}; // of weighted values, [d_v]
    for (uint32_t key = begin; key < end && max != -INFINITY; key++) {
        const char *v = (const char *)a->v + key * a->v_stride_bytes;
        double weight = exp(score_key(a, q, key) - max);
        sum += weight;
        for (uint32_t i = 0; i < a->d_v; i++)
            sums[i] += weight * read_value(a->kv_type, v, i);
    }
    for (uint32_t i = 0; i < a->d_v; i++)
        o[i] = max == -INFINITY ? 0 : (float)(sums[i] / sum);
    *lse = max == -INFINITY ? -INFINITY : (float)(max + log(sum));
}

static int64_t clamp(int64_t x, int64_t low, int64_t high)
{
    return x < low ? low : x > high ? high : x;
}

static void attend_ref(const struct attend_args *a)
{
    for (uint32_t t = 0; t < a->n_tokens; t++) {
        int64_t end = clamp(a->n_visible + t, 0, a->n_keys);
        int64_t begin = a->n_window == 0 ? 0 : clamp(a->n_visible + t - a->n_window, 0, end);
        for (uint32_t g = 0; g < a->group; g++)
            attend_row(a, (uint32_t)begin, (uint32_t)end, a->q + t * a->q_stride + g * a->d_k,
                       a->o + t * a->o_stride + g * a->d_v, a->lse + t * a->lse_stride + g);
    }
}

// log sum exp over the parts; -infinity if all are empty.
static double merge_lse(const float *lse, size_t stride, uint32_t n_parts)
{
    double max = -INFINITY;
    for (uint32_t p = 0; p < n_parts; p++)
        max = max_or_nan(max, lse[p * stride]);
    if (max == -INFINITY) return max;
    double sum = 0;
    for (uint32_t p = 0; p < n_parts; p++)
        sum += exp(lse[p * stride] - max);
    return max + log(sum);
}

static void merge_ref(const struct merge_args *a)
{
    enum { SLICE_VALUES = 64 };
    for (size_t row = 0; row < a->n_rows; row++) {
        double lse = merge_lse(a->lse + row, a->part_stride_lse, a->n_parts);
        // A slice of all parts is read before it is written: the result may lie on part 0.
        for (uint32_t begin = 0; begin < a->d_v; begin += SLICE_VALUES) {
            uint32_t n = a->d_v - begin < SLICE_VALUES ? a->d_v - begin : SLICE_VALUES;
            double sums[SLICE_VALUES] = {0};
            for (uint32_t p = 0; p < a->n_parts; p++) {
                float part_lse = a->lse[p * a->part_stride_lse + row];
                if (part_lse == -INFINITY) continue;
                double weight = exp(part_lse - lse);
                const float *o = a->o + p * a->part_stride_o + row * a->d_v + begin;
                for (uint32_t i = 0; i < n; i++)
                    sums[i] += weight * o[i];
            }
            for (uint32_t i = 0; i < n; i++)
                a->out_o[row * a->d_v + begin + i] = (float)sums[i];
        }
        if (a->out_lse != NULL) a->out_lse[row] = (float)lse;
    }
}

void attend_ref_fill(struct kernel_table *table)
{
    table->attend = attend_ref;
    table->merge = merge_ref;
}
