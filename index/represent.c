// Representatives of units and groups, measured against the rows as attention will read them.
//
// Everything that a bound rests on is taken from the values that the packed representatives stand
// for, and lengths are rounded up (by SLACK, above the rounding of any sum of D_MAX squares): what
// the index says of its rows is then true, not about true.

#include "index/represent.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "index/vectors.h"

enum { D_MAX = 256 };
static const float SLACK = 1.0f + 0x1p-14f;
static const float HALF_MAX = 65504.0f; // greatest f16: beyond it the radius tells the rest

// Vectors of one level, each of the rows from begin[i * step] to begin[(i + 1) * step].
struct members {
    const float *k; // [n_rows, d] in unit order
    uint32_t d;
    const uint32_t *begin; // [n_units + 1]
    uint32_t n_units;
    uint32_t step; // 1: units; COARSE_UNITS: groups
};

static uint32_t first_row(const struct members *m, uint32_t i)
{
    const uint32_t unit = i * m->step;
    return m->begin[unit < m->n_units ? unit : m->n_units];
}

// A length from its square, rounded up; never infinity, with which sums would become NaN.
static float length_above(double square)
{
    const double length = sqrt(square) * (double)SLACK;
    return length < (double)FLT_MAX ? (float)length : FLT_MAX;
}

static float raise(float most, float x)
{
    return x > most ? x : most;
}

static void clamp_half(bool q8, float *x, uint32_t n)
{
    for (uint32_t i = 0; i < n && !q8; i++)
        x[i] = fminf(fmaxf(x[i], -HALF_MAX), HALF_MAX);
}

static void find_mean(const struct members *m, uint32_t i, float *mean)
{
    const uint32_t end = first_row(m, i + 1);
    memset(mean, 0, m->d * sizeof *mean);
    for (uint32_t row = first_row(m, i); row < end; row++)
        vector_add(mean, m->k + (size_t)row * m->d, 1.0f, m->d);
    vector_scale(mean, 1.0f / (float)(end - first_row(m, i)), m->d);
}

// The mean of the keys that received most attention; block_rows are positions, and those of a block
// selector's segment are rows.
static void find_block_mean(const struct members *m, const uint16_t *rows, float *mean)
{
    memset(mean, 0, m->d * sizeof *mean);
    for (uint32_t i = 0; i < BLOCK_KEYS; i++)
        vector_add(mean, m->k + (size_t)rows[i] * m->d, 1.0f / BLOCK_KEYS, m->d);
}

// Where a level's parts lie in the index.
struct level_parts {
    uint8_t *reps;
    float *radius;
    float *spread;
    const uint16_t *block_rows; // or NULL
};

static void measure(const struct members *m, uint32_t i, const float *rep, float *radius,
                    float *spread)
{
    const uint32_t begin = first_row(m, i);
    const uint32_t end = first_row(m, i + 1);
    double sum = 0;
    double most = 0;
    for (uint32_t row = begin; row < end; row++) {
        const double square = (double)vector_distance2(m->k + (size_t)row * m->d, rep, m->d);
        sum += square;
        most = square > most ? square : most;
    }
    *radius = length_above(most);
    *spread = (float)fmin(sum / (double)(end - begin), (double)FLT_MAX);
}

static void represent_level(const struct selector_params *params, const struct members *m,
                            uint32_t n, const struct level_parts *parts, struct index_head *head)
{
    const size_t block_bytes = rep_block_bytes(params->index_q8, m->d);
    float reps[REP_LANES * D_MAX];
    for (uint32_t begin = 0; begin < n; begin += REP_LANES) {
        const uint32_t n_lanes = n - begin < REP_LANES ? n - begin : REP_LANES;
        for (uint32_t lane = 0; lane < n_lanes; lane++)
            if (parts->block_rows != NULL)
                find_block_mean(m, parts->block_rows + (size_t)(begin + lane) * BLOCK_KEYS,
                                reps + (size_t)lane * m->d);
            else
                find_mean(m, begin + lane, reps + (size_t)lane * m->d);
        clamp_half(params->index_q8, reps, n_lanes * m->d);
        params->kernels->kv.pack_reps(params->index_q8, reps, n_lanes, m->d,
                                      parts->reps + begin / REP_LANES * block_bytes, reps);
        for (uint32_t lane = 0; lane < n_lanes; lane++) {
            const float *rep = reps + (size_t)lane * m->d;
            const uint32_t i = begin + lane;
            measure(m, i, rep, &parts->radius[i], &parts->spread[i]);
            head->radius_max = raise(head->radius_max, parts->radius[i]);
            head->rep_norm =
                raise(head->rep_norm, length_above((double)vector_dot(rep, rep, m->d)));
        }
    }
}

// ---- Boxes --------------------------------------------------------------------------------------

// Centre and half widths of the box around a unit's keys.
static void find_box(const struct members *m, uint32_t i, float *mid, float *half)
{
    const uint32_t begin = first_row(m, i);
    const uint32_t end = first_row(m, i + 1);
    for (uint32_t c = 0; c < m->d; c++) {
        float least = m->k[(size_t)begin * m->d + c];
        float most = least;
        for (uint32_t row = begin + 1; row < end; row++) {
            least = fminf(least, m->k[(size_t)row * m->d + c]);
            most = fmaxf(most, m->k[(size_t)row * m->d + c]);
        }
        mid[c] = 0.5f * least + 0.5f * most;
        half[c] = 0.5f * most - 0.5f * least;
    }
}

// Both become representatives. The centre's rounding is added to the half widths, and what their
// own rounding takes away is kept as box_rest.
static void represent_boxes(const struct selector_params *params, const struct members *m,
                            const struct index_layout *layout, struct index_head *head)
{
    const size_t block_bytes = rep_block_bytes(params->index_q8, m->d);
    uint8_t *mids = index_part(head, layout->mid);
    uint8_t *halves = index_part(head, layout->half);
    float *box_rest = index_part(head, layout->box_rest);
    float mid[REP_LANES * D_MAX];
    float half[REP_LANES * D_MAX];
    float packed[REP_LANES * D_MAX];
    for (uint32_t begin = 0; begin < m->n_units; begin += REP_LANES) {
        const uint32_t n_lanes = m->n_units - begin < REP_LANES ? m->n_units - begin : REP_LANES;
        const size_t at = begin / REP_LANES * block_bytes;
        for (uint32_t lane = 0; lane < n_lanes; lane++)
            find_box(m, begin + lane, mid + (size_t)lane * m->d, half + (size_t)lane * m->d);
        memcpy(packed, mid, (size_t)n_lanes * m->d * sizeof *mid);
        clamp_half(params->index_q8, packed, n_lanes * m->d);
        params->kernels->kv.pack_reps(params->index_q8, packed, n_lanes, m->d, mids + at, packed);
        for (uint32_t i = 0; i < n_lanes * m->d; i++)
            half[i] = (half[i] + fabsf(mid[i] - packed[i])) * SLACK + 0x1p-22f * fabsf(mid[i]);
        for (uint32_t lane = 0; lane < n_lanes; lane++) {
            const float *x = packed + (size_t)lane * m->d;
            head->rep_norm = raise(head->rep_norm, length_above((double)vector_dot(x, x, m->d)));
        }
        memcpy(packed, half, (size_t)n_lanes * m->d * sizeof *half);
        clamp_half(params->index_q8, packed, n_lanes * m->d);
        params->kernels->kv.pack_reps(params->index_q8, packed, n_lanes, m->d, halves + at, packed);
        for (uint32_t lane = 0; lane < n_lanes; lane++) {
            double lack = 0;
            const float *x = packed + (size_t)lane * m->d;
            for (uint32_t c = 0; c < m->d; c++) {
                const double less = (double)half[(size_t)lane * m->d + c] - (double)x[c];
                lack += less > 0 ? less * less : 0;
            }
            box_rest[begin + lane] = length_above(lack);
            head->half_norm = raise(head->half_norm, length_above((double)vector_dot(x, x, m->d)));
        }
    }
}

// ---- Values and stage-2 keys --------------------------------------------------------------------

static void represent_values(const struct selector_params *params, const float *v,
                             const struct members *m, uint16_t *values)
{
    const struct members rows = {
        .k = v, .d = params->d_v, .begin = m->begin, .n_units = m->n_units, .step = 1};
    float mean[D_MAX];
    for (uint32_t u = 0; u < m->n_units; u++) {
        find_mean(&rows, u, mean);
        clamp_half(false, mean, rows.d);
        params->kernels->convert(FATHOM_TYPE_F16, mean, values + (size_t)u * rows.d, rows.d);
    }
}

static void encode_keys(const struct selector_params *params, const float *k, uint32_t n_rows,
                        const struct index_layout *layout, struct index_head *head)
{
    const struct kv_kernels *kv = &params->kernels->kv;
    const uint32_t d = params->d_k;
    const uint32_t bits = params->stage2_bits;
    const size_t row_bytes = kv_code_bytes(bits, d);
    float *k_min = index_part(head, layout->k_min);
    float *k_step = index_part(head, layout->k_step);
    uint8_t *keys = index_part(head, layout->keys);
    float decoded[D_MAX];
    kv->k_range(bits, k, n_rows, d, k_min, k_step);
    for (uint32_t row = 0; row < n_rows; row++) {
        const float *key = k + (size_t)row * d;
        kv->k_encode(bits, key, k_min, k_step, d, keys + row * row_bytes);
        kv->k_decode(bits, keys + row * row_bytes, k_min, k_step, d, decoded);
        head->key_error =
            raise(head->key_error, length_above((double)vector_distance2(key, decoded, d)));
    }
}

void represent_rows(const struct selector_params *params, const float *k, const float *v,
                    uint32_t n_rows, void *index)
{
    struct index_head *head = index;
    struct index_layout layout;
    index_layout_of(&head->form, &layout);
    struct members m = {
        .k = k,
        .d = params->d_k,
        .begin = index_at(index, layout.unit_begin),
        .n_units = head->n_units,
        .step = 1,
    };
    const struct level_parts units = {
        .reps = index_part(index, layout.reps),
        .radius = index_part(index, layout.radius),
        .spread = index_part(index, layout.spread),
        .block_rows = head->block_keys > 0 ? index_at(index, layout.block_rows) : NULL,
    };
    const struct level_parts groups = {
        .reps = index_part(index, layout.coarse_reps),
        .radius = index_part(index, layout.coarse_radius),
        .spread = index_part(index, layout.coarse_spread),
    };
    represent_level(params, &m, head->n_units, &units, head);
    if (head->form.box) represent_boxes(params, &m, &layout, head);
    if (head->form.values) represent_values(params, v, &m, index_part(index, layout.values));
    if (head->form.key_bits > 0) encode_keys(params, k, n_rows, &layout, head);
    m.step = COARSE_UNITS;
    if (layout.groups_max > 0) represent_level(params, &m, groups_of(head->n_units), &groups, head);
    head->hash = index_hash(index);
}
