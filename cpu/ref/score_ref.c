// The truth about scores: representatives and their blocks, token scores from codes of K, weighted
// sums of rows, log-sum-exp, ranks. Queries keep their full precision, sums are double, results are
// rounded once.
//
// Slow and obviously right; every other variant is checked against this one, and packs
// representatives into the same bytes.

#include "cpu/ladder.h"

#include <math.h>
#include <string.h>

#include "src/base/half.h"

enum { ZERO_CODE = 128, CODE_MAX = 127, D_MAX = 256 };

// Below this a vector counts as zeros: steps stay normal numbers, and so do their reciprocals.
static const float TINY = 0x1p-100f;
// Of a result's rounding, and of that of an unpacked representative.
static const double ROUNDING = 0x1p-22;

// The step between codes of x; NaN if there is a NaN or an infinity in it.
static float find_step(const float *x, uint32_t d)
{
    float max = 0;
    for (uint32_t c = 0; c < d; c++) {
        if (!isfinite(x[c])) return NAN;
        max = fmaxf(max, fabsf(x[c]));
    }
    return max < TINY ? 0 : max / CODE_MAX;
}

static void pack_rep_q8(const float *x, uint32_t d, uint32_t lane, void *block, float *unpacked)
{
    float step = find_step(x, d), *steps = block;
    uint8_t *codes = (uint8_t *)block + REP_LANES * sizeof(float) + 4 * lane;
    steps[lane] = step;
    for (uint32_t c = 0; c < (d + 3) / 4 * 4; c++) {
        float code = c < d && step > 0 ? rintf(x[c] / step) : 0;
        codes[c / 4 * 4 * REP_LANES + c % 4] = (uint8_t)(ZERO_CODE + (int)code);
        if (c < d && unpacked != NULL) unpacked[c] = step * code;
    }
}

static void pack_rep_f16(const float *x, uint32_t d, uint32_t lane, void *block, float *unpacked)
{
    uint16_t *halves = block;
    for (uint32_t c = 0; c < d; c++) {
        uint16_t half = half_from_float(x[c]);
        halves[c * REP_LANES + lane] = half;
        if (unpacked != NULL) unpacked[c] = half_to_float(half);
    }
}

static void pack_reps_ref(bool q8, const float *x, uint32_t n, uint32_t d, void *block,
                          float *unpacked)
{
    static const float zeros[D_MAX];
    for (uint32_t lane = 0; lane < REP_LANES; lane++) {
        const float *vector = lane < n ? x + (size_t)lane * d : zeros;
        float *to = lane < n && unpacked != NULL ? unpacked + (size_t)lane * d : NULL;
        if (q8)
            pack_rep_q8(vector, d, lane, block, to);
        else
            pack_rep_f16(vector, d, lane, block, to);
    }
}

// The query as it is.
static void pack_rep_query_ref(bool q8, const float *q, uint32_t group, uint32_t d, void *packed,
                               float *slack)
{
    (void)q8;
    memcpy(packed, q, (size_t)group * d * sizeof *q);
    for (uint32_t g = 0; g < group; g++) {
        double sum = 0;
        for (uint32_t c = 0; c < d; c++)
            sum += (double)q[g * d + c] * q[g * d + c];
        slack[g] = (float)(ROUNDING * sqrt(sum));
    }
}

static double rep_value(bool q8, const void *block, uint32_t lane, uint32_t c)
{
    if (!q8) return half_to_float(((const uint16_t *)block)[c * REP_LANES + lane]);
    const uint8_t *codes = (const uint8_t *)block + REP_LANES * sizeof(float);
    size_t at = ((size_t)c / 4 * REP_LANES + lane) * 4 + c % 4;
    double code = codes[at] - ZERO_CODE;
    return ((const float *)block)[lane] * code;
}

static void score_reps_ref(const struct score_reps_args *args)
{
    size_t block_bytes = rep_block_bytes(args->q8, args->d);
    for (uint32_t g = 0; g < args->group; g++)
        for (uint32_t i = args->begin; i < args->end; i++) {
            const float *q = (const float *)args->q + g * args->d;
            const char *block = (const char *)args->blocks + i / REP_LANES * block_bytes;
            double sum = 0;
            for (uint32_t c = 0; c < args->d; c++)
                sum += q[c] * rep_value(args->q8, block, i % REP_LANES, c);
            args->out[g * args->out_stride + i - args->begin] = (float)sum;
        }
}

// A head's query folded into a segment's codes: score = base + sum_c q[c] * code[c].
struct row_query {
    double base;
    double q[D_MAX];
};

static void pack_row_query_ref(uint32_t bits, const float *q, uint32_t group, uint32_t d,
                               const float *k_min, const float *k_step, void *packed, float *slack)
{
    struct row_query *folded = packed;
    double code_max = (1u << bits) - 1;
    for (uint32_t g = 0; g < group; g++, folded++, q += d) {
        double score_max = 0;
        folded->base = 0;
        for (uint32_t c = 0; c < d; c++) {
            double k_max = k_min[c] + code_max * k_step[c];
            folded->q[c] = (double)q[c] * k_step[c];
            folded->base += (double)q[c] * k_min[c];
            score_max += fabs(q[c] * fmax(fabs((double)k_min[c]), fabs(k_max)));
        }
        slack[g] = (float)(ROUNDING * score_max);
    }
}

static uint32_t row_code(uint32_t bits, const uint8_t *row, uint32_t c)
{
    uint32_t piece = 128 / bits, i = c % piece;
    uint8_t byte = row[c / piece * KV_PIECE_BYTES + i % KV_PIECE_BYTES];
    return byte >> i / KV_PIECE_BYTES * bits & ((1u << bits) - 1);
}

static void score_rows_ref(const struct score_rows_args *args)
{
    for (uint32_t g = 0; g < args->group; g++)
        for (uint32_t j = 0; j < args->n_rows; j++) {
            const struct row_query *query = (const struct row_query *)args->q + g;
            const uint8_t *row = args->rows[j];
            double sum = query->base;
            for (uint32_t c = 0; c < args->d; c++)
                sum += query->q[c] * row_code(args->bits, row, c);
            args->out[g * args->out_stride + j] = (float)sum;
        }
}

static void blend_rows_ref(const float *weight, size_t stride, uint32_t group, const uint16_t *rows,
                           size_t n, uint32_t d, float *o)
{
    for (uint32_t g = 0; g < group; g++)
        for (uint32_t c = 0; c < d; c++) {
            double sum = o[g * d + c];
            for (size_t i = 0; i < n; i++)
                sum += (double)weight[g * stride + i] * half_to_float(rows[i * d + c]);
            o[g * d + c] = (float)sum;
        }
}

static float log_sum_exp_ref(const float *x, const float *weight, size_t n)
{
    double max = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++)
        if ((weight == NULL || weight[i] > 0) && x[i] > max) max = x[i];
    double base = isfinite(max) ? max : 0;
    for (size_t i = 0; i < n; i++)
        if (weight == NULL || weight[i] != 0)
            sum += (weight == NULL ? 1 : (double)weight[i]) * exp(x[i] - base);
    return sum == 0 ? -INFINITY : (float)(base + log(sum));
}

static double rank_value(const struct rank_args *args, uint32_t g, size_t i)
{
    double reach = args->radius != NULL ? (double)args->reach[g] * args->radius[i] : 0;
    return args->scores[g * args->stride + i] + reach - args->mass[g];
}

static double rank_item(const struct rank_args *args, size_t i)
{
    double max = -INFINITY, sum = 0;
    if (args->weight != NULL && !(args->weight[i] > 0)) return -INFINITY;
    for (uint32_t g = 0; g < args->group; g++)
        max = fmax(max, rank_value(args, g, i));
    if (!args->sum || !isfinite(max)) return max;
    for (uint32_t g = 0; g < args->group; g++) {
        double value = rank_value(args, g, i);
        sum += isnan(value) ? 0 : exp(value - max);
    }
    return max + log(sum);
}

static void rank_scores_ref(const struct rank_args *args)
{
    for (size_t i = 0; i < args->n; i++)
        args->out[i] = (float)rank_item(args, i);
}

static struct found find_within_ref(const struct find_args *args)
{
    struct found found = {0, 0};
    for (size_t i = 0; i < args->n; i++) {
        if (args->x[i] >= args->least && args->x[i] <= args->most)
            args->at[found.n++] = (uint32_t)i;
        if (args->x[i] > args->most)
            found.above += args->weight != NULL ? (uint64_t)args->weight[i] : 1;
    }
    return found;
}

void score_ref_fill(struct kernel_table *table)
{
    table->kv.pack_reps = pack_reps_ref;
    table->kv.pack_rep_query = pack_rep_query_ref;
    table->kv.score_reps = score_reps_ref;
    table->kv.pack_row_query = pack_row_query_ref;
    table->kv.score_rows = score_rows_ref;
    table->kv.blend_rows = blend_rows_ref;
    table->kv.log_sum_exp = log_sum_exp_ref;
    table->kv.rank_scores = rank_scores_ref;
    table->kv.find_within = find_within_ref;
}
