// The truth about attention over runs of sealed rows: two passes over the rows (maximum, then
// sums), everything in double. The partial that is there already counts as one more row, whose
// score is its lse.

#include "cpu/ladder.h"

#include <math.h>
#include <string.h>

#include "cpu/ref/kv_codec_ref.h"
#include "src/base/half.h"

static double read_plain(int32_t type, const void *row, uint32_t i)
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

static double read_k(const struct attend_runs_args *a, const void *row, uint32_t i)
{
    const struct kv_format *f = &a->format;
    if (f->bits == 0) return read_plain(f->type, row, i);
    return a->k_min[i] + (double)a->k_step[i] * kv_code_ref(f->bits, row, i);
}

static double read_v(const struct attend_runs_args *a, const void *row, uint32_t i)
{
    const struct kv_format *f = &a->format;
    if (f->bits == 0) return read_plain(f->type, row, i);
    float step, min;
    kv_v_scale_ref(row, i / KV_GROUP, &step, &min);
    const char *codes = (const char *)row + kv_v_head_bytes_ref(f->d_v);
    return min + (double)step * kv_code_ref(f->bits, codes, i);
}

static double score_row(const struct attend_runs_args *a, const float *q, const void *k)
{
    double sum = 0;
    for (uint32_t i = 0; i < a->format.d_k; i++)
        sum += (double)q[i] * read_k(a, k, i);
    return a->scale * sum;
}

// The larger one; NaN if there is one.
static double max_or_nan(double a, double b)
{
    if (isnan(a)) return a;
    return a > b ? a : b;
}

static double max_score(const struct attend_runs_args *a, const float *q)
{
    const size_t k_bytes = kv_k_row_bytes(&a->format);
    double max = -INFINITY;
    for (uint32_t r = 0; r < a->n_runs; r++)
        for (uint32_t j = 0; j < a->runs[r].n_rows; j++)
            max = max_or_nan(max, score_row(a, q, (const char *)a->runs[r].k + j * k_bytes));
    return max;
}

// One query head of one token; o and lse hold the partial so far, lse = -infinity for none.
static void attend_row(const struct attend_runs_args *a, const float *q, float *o, float *lse)
{
    const size_t k_bytes = kv_k_row_bytes(&a->format), v_bytes = kv_v_row_bytes(&a->format);
    const uint32_t d_v = a->format.d_v;
    double max = max_or_nan(max_score(a, q), *lse);
    double sum = 0;
    double sums[256] = {0}; // of weighted values, [d_v]
    if (*lse != -INFINITY) {
        sum = exp(*lse - max);
        for (uint32_t i = 0; i < d_v; i++)
            sums[i] = sum * o[i];
    }
    for (uint32_t r = 0; r < a->n_runs && max != -INFINITY; r++)
        for (uint32_t j = 0; j < a->runs[r].n_rows; j++) {
            double score = score_row(a, q, (const char *)a->runs[r].k + j * k_bytes);
            double weight = exp(score - max);
            sum += weight;
            for (uint32_t i = 0; i < d_v; i++)
                sums[i] += weight * read_v(a, (const char *)a->runs[r].v + j * v_bytes, i);
        }
    for (uint32_t i = 0; i < d_v; i++)
        o[i] = max == -INFINITY ? 0 : (float)(sums[i] / sum);
    *lse = max == -INFINITY ? -INFINITY : (float)(max + log(sum));
}

static void attend_runs_ref(const struct attend_runs_args *a)
{
    for (uint32_t t = 0; t < a->n_tokens; t++)
        for (uint32_t g = 0; g < a->group; g++) {
            float *lse = a->lse + t * a->lse_stride + g;
            if (!a->accumulate) *lse = -INFINITY;
            attend_row(a, a->q + t * a->q_stride + g * a->format.d_k,
                       a->o + t * a->o_stride + g * a->format.d_v, lse);
        }
}

void attend_runs_ref_fill(struct kernel_table *table)
{
    table->kv.attend_runs = attend_runs_ref;
}
