// Units of similar keys: k-means inside the segment (RetroInfer, Chen et al. 2025, arXiv
// 2505.02922), then an order of the units in which neighbours are similar too, so that a search can
// judge COARSE_UNITS of them by one representative (the two levels of Squeezed Attention, Hooper
// et al. 2024, arXiv 2411.09688).
//
// A group of the coarse level is always COARSE_UNITS units, which keeps blocks of representatives
// whole: hence a balanced tree, not k-means, on the coarse level.
//
// One far key makes the ball of its whole group wide. Units with such keys therefore get groups of
// their own: a search looks into those for almost any query, and the other groups stay narrow.
// Of 192 needles planted as test_needles does among 98,304 keys, with 0.5 % picked and a quarter
// scanned, that finds 174 instead of 136; a scan of all finds 184.

#include "index/group.h"

#include <math.h>
#include <string.h>

#include "index/kmeans.h"
#include "index/vectors.h"
#include "src/base/mem.h"

enum {
    ROUNDS_MERGED = 9, // RetroInfer's
    ROUNDS_QUICK = 4,  // of a segment that will be grouped again when it is merged
    TURNS = 6,         // of power iteration
    FAR_SHARE = 8,     // one unit in so many goes to the groups of far keys
    D_MAX = 256,
};

// ---- Balanced tree over the units ---------------------------------------------------------------

// direction: about the one in which n centred vectors spread most.
static void find_direction(const float *vectors, uint32_t d, const uint32_t *order, uint32_t n,
                           const float *mean, float *direction)
{
    float next[D_MAX];
    float farthest = -1;
    for (uint32_t i = 0; i < n; i++) {
        const float *x = vectors + (size_t)order[i] * d;
        const float distance = vector_distance2(x, mean, d);
        if (!(distance > farthest)) continue;
        farthest = distance;
        memcpy(direction, x, d * sizeof *direction);
    }
    vector_add(direction, mean, -1.0f, d);
    for (uint32_t turn = 0; turn < TURNS; turn++) {
        const float offset = vector_dot(mean, direction, d);
        memset(next, 0, d * sizeof *next);
        for (uint32_t i = 0; i < n; i++) {
            const float *x = vectors + (size_t)order[i] * d;
            const float weight = vector_dot(x, direction, d) - offset;
            vector_add(next, x, weight, d);
            vector_add(next, mean, -weight, d);
        }
        const float norm = sqrtf(vector_dot(next, next, d));
        if (!(norm > 0) || norm == INFINITY) return;
        vector_scale(next, 1.0f / norm, d);
        memcpy(direction, next, d * sizeof *direction);
    }
}

// Shell sort of order by the projections (by vector), then by number.
static void sort_projected(uint32_t *order, uint32_t n, const float *projections)
{
    for (uint32_t gap = n / 2; gap > 0; gap /= 2)
        for (uint32_t i = gap; i < n; i++) {
            const uint32_t vector = order[i];
            uint32_t at = i;
            for (; at >= gap; at -= gap) {
                const uint32_t other = order[at - gap];
                const float a = projections[other];
                const float b = projections[vector];
                if (a < b || (a == b && other < vector)) break;
                order[at] = other;
            }
            order[at] = vector;
        }
}

void group_similar(const float *vectors, uint32_t d, uint32_t *order, uint32_t n,
                   float *projections)
{
    const uint32_t n_groups = groups_of(n);
    const uint32_t n_low = n_groups / 2 * COARSE_UNITS;
    float mean[D_MAX] = {0};
    float direction[D_MAX] = {0};
    if (n_groups < 2) return;
    for (uint32_t i = 0; i < n; i++)
        vector_add(mean, vectors + (size_t)order[i] * d, 1.0f, d);
    vector_scale(mean, 1.0f / (float)n, d);
    find_direction(vectors, d, order, n, mean, direction);
    for (uint32_t i = 0; i < n; i++)
        projections[order[i]] = vector_dot(vectors + (size_t)order[i] * d, direction, d);
    sort_projected(order, n, projections);
    group_similar(vectors, d, order, n_low, projections);
    group_similar(vectors, d, order + n_low, n - n_low, projections);
}

// ---- Clusters to units --------------------------------------------------------------------------

struct clusters {
    uint32_t m;
    void *kmeans;       // scratch
    uint32_t *unit_of;  // [n_rows] cluster, then unit of each row
    uint32_t *size;     // [m] rows of a cluster
    uint32_t *seen;     // [m] of them, so far
    uint32_t *first;    // [m] unit of a cluster's first piece
    uint32_t *order;    // [units_max] units, similar ones together
    uint32_t *place;    // [units_max] of a unit in that order, then where its next row goes
    uint32_t *count;    // [units_max] rows of a unit
    float *centroids;   // [units_max, d]
    float *projections; // [units_max]
    float *reach;       // [units_max] how far a unit's keys are from its centroid, from its group's
};

static void *take(uint8_t *base, size_t *used, size_t count, size_t item_bytes)
{
    uint8_t *at = base != NULL ? base + *used : NULL;
    *used += size_round(count * item_bytes, MEM_ALIGN_BYTES);
    return at;
}

// Places the arrays in the scratch at base, or only counts the bytes when it is NULL.
static size_t lay_out(struct clusters *c, const struct selector_params *params, uint32_t n_rows,
                      uint8_t *base)
{
    struct index_layout layout;
    const struct index_form form = index_form_of(params, n_rows);
    index_layout_of(&form, &layout);
    const uint32_t n = layout.units_max;
    size_t used = 0;
    c->m = (n_rows + params->unit_tokens / 2) / params->unit_tokens;
    if (c->m == 0) c->m = 1;
    c->kmeans =
        take(base, &used, kmeans_scratch_bytes(params->kernels, n_rows, params->d_k, c->m), 1);
    c->unit_of = take(base, &used, n_rows, sizeof(uint32_t));
    c->size = take(base, &used, c->m, sizeof(uint32_t));
    c->seen = take(base, &used, c->m, sizeof(uint32_t));
    c->first = take(base, &used, c->m, sizeof(uint32_t));
    c->order = take(base, &used, n, sizeof(uint32_t));
    c->place = take(base, &used, n, sizeof(uint32_t));
    c->count = take(base, &used, n, sizeof(uint32_t));
    c->centroids = take(base, &used, (size_t)n * params->d_k, sizeof(float));
    c->projections = take(base, &used, n, sizeof(float));
    c->reach = take(base, &used, n, sizeof(float));
    return used;
}

size_t group_cluster_scratch_bytes(const struct selector_params *params, uint32_t n_rows)
{
    struct clusters c;
    return lay_out(&c, params, n_rows, NULL);
}

// Turns labels into units: empty clusters vanish, large ones are cut by position into pieces of
// about equal size, so that a unit is bounded. Returns the number of units.
static uint32_t cut_units(struct clusters *c, uint32_t n_rows, uint32_t unit_tokens)
{
    const uint32_t most = UNIT_SPLIT * unit_tokens;
    uint32_t n_units = 0;
    memset(c->size, 0, c->m * sizeof *c->size);
    memset(c->seen, 0, c->m * sizeof *c->seen);
    for (uint32_t i = 0; i < n_rows; i++)
        c->size[c->unit_of[i]]++;
    for (uint32_t label = 0; label < c->m; label++) {
        c->first[label] = n_units;
        n_units += (c->size[label] + most - 1) / most;
    }
    memset(c->count, 0, n_units * sizeof *c->count);
    for (uint32_t i = 0; i < n_rows; i++) {
        const uint32_t label = c->unit_of[i];
        const uint32_t n_pieces = (c->size[label] + most - 1) / most;
        const uint64_t rank = c->seen[label]++;
        c->unit_of[i] = c->first[label] + (uint32_t)(rank * n_pieces / c->size[label]);
        c->count[c->unit_of[i]]++;
    }
    return n_units;
}

static void find_centroids(struct clusters *c, const float *k, uint32_t n_rows, uint32_t n_units,
                           uint32_t d)
{
    memset(c->centroids, 0, (size_t)n_units * d * sizeof *c->centroids);
    for (uint32_t i = 0; i < n_rows; i++)
        vector_add(c->centroids + (size_t)c->unit_of[i] * d, k + (size_t)i * d, 1.0f, d);
    for (uint32_t u = 0; u < n_units; u++)
        vector_scale(c->centroids + (size_t)u * d, 1.0f / (float)c->count[u], d);
}

// Adds to each unit's reach how far it is from the mean of its group.
static void reach_from_groups(struct clusters *c, uint32_t n_units, uint32_t d)
{
    float mean[D_MAX];
    for (uint32_t begin = 0; begin < n_units; begin += COARSE_UNITS) {
        const uint32_t left = n_units - begin;
        const uint32_t n = left < COARSE_UNITS ? left : COARSE_UNITS;
        memset(mean, 0, d * sizeof *mean);
        for (uint32_t i = begin; i < begin + n; i++)
            vector_add(mean, c->centroids + (size_t)c->order[i] * d, 1.0f / (float)n, d);
        for (uint32_t i = begin; i < begin + n; i++)
            c->reach[c->order[i]] +=
                sqrtf(vector_distance2(c->centroids + (size_t)c->order[i] * d, mean, d));
    }
}

// Orders the units: first groups of those that reach far, then of all others.
static void order_units(struct clusters *c, const float *k, uint32_t n_rows, uint32_t n_units,
                        uint32_t d)
{
    const uint32_t n_far = n_units / FAR_SHARE / COARSE_UNITS * COARSE_UNITS;
    memset(c->reach, 0, n_units * sizeof *c->reach);
    for (uint32_t i = 0; i < n_rows; i++) {
        const uint32_t unit = c->unit_of[i];
        const float distance =
            sqrtf(vector_distance2(k + (size_t)i * d, c->centroids + (size_t)unit * d, d));
        if (distance > c->reach[unit]) c->reach[unit] = distance;
    }
    for (uint32_t u = 0; u < n_units; u++)
        c->order[u] = u;
    group_similar(c->centroids, d, c->order, n_units, c->projections);
    if (n_far == 0) return;
    reach_from_groups(c, n_units, d);
    for (uint32_t u = 0; u < n_units; u++)
        c->projections[u] = -c->reach[u];
    sort_projected(c->order, n_units, c->projections);
    group_similar(c->centroids, d, c->order, n_far, c->projections);
    group_similar(c->centroids, d, c->order + n_far, n_units - n_far, c->projections);
}

void group_cluster(const struct selector_params *params, const struct selector_rows *rows,
                   const struct index_layout *layout, void *index, void *scratch)
{
    struct index_head *head = index;
    uint32_t *begin = index_part(index, layout->unit_begin);
    uint16_t *positions = index_part(index, layout->positions);
    struct clusters c;
    lay_out(&c, params, rows->n_rows, scratch);
    const struct kmeans_args kmeans = {
        .kernels = params->kernels,
        .x = rows->k,
        .n = rows->n_rows,
        .d = params->d_k,
        .m = c.m,
        .n_rounds = rows->merged ? ROUNDS_MERGED : ROUNDS_QUICK,
        .label = c.unit_of,
        .scratch = c.kmeans,
    };
    kmeans_run(&kmeans);
    head->n_units = cut_units(&c, rows->n_rows, params->unit_tokens);
    find_centroids(&c, rows->k, rows->n_rows, head->n_units, params->d_k);
    order_units(&c, rows->k, rows->n_rows, head->n_units, params->d_k);
    for (uint32_t i = 0; i < head->n_units; i++) {
        begin[i + 1] = begin[i] + c.count[c.order[i]];
        c.place[c.order[i]] = begin[i];
    }
    for (uint32_t i = 0; i < rows->n_rows; i++)
        positions[c.place[c.unit_of[i]]++] = (uint16_t)i;
}
