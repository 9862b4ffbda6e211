// Units of consecutive tokens: one (flat), 8 (chunk; ShadowKV, Sun et al. 2024, arXiv 2410.21465)
// or 128 (block; InfLLM, Xiao et al. 2024, arXiv 2402.04617).

#include "index/group.h"

#include <math.h>
#include <string.h>

#include "index/vectors.h"

enum {
    // ShadowKV keeps 24 outlier chunks of 8 for 8192 landmarks; about one in 341.
    CHUNKS_PER_OUTLIER = 341,
    OUTLIER_CHUNKS_MIN = 32, // of a segment that is worth one
    D_MAX = 256,
};

// The least cosine between a chunk's mean and its keys; 1 where there is none.
static float least_cosine(const float *k, uint32_t n, uint32_t d)
{
    float mean[D_MAX] = {0};
    float least = 1;
    for (uint32_t i = 0; i < n; i++)
        vector_add(mean, k + (size_t)i * d, 1.0f, d);
    const float norm = sqrtf(vector_dot(mean, mean, d));
    for (uint32_t i = 0; i < n; i++) {
        const float *key = k + (size_t)i * d;
        const float product = norm * sqrtf(vector_dot(key, key, d));
        const float cosine = product > 0 ? vector_dot(mean, key, d) / product : 1;
        if (cosine < least) least = cosine;
    }
    return least;
}

// Flags the chunks whose keys are worst told by their mean. They are few: each is found by a pass.
static void flag_outliers(const struct selector_rows *rows, uint32_t d,
                          const struct index_layout *layout, void *index)
{
    struct index_head *head = index;
    const uint32_t *begin = index_at(index, layout->unit_begin);
    uint8_t *outliers = index_part(index, layout->outliers);
    float *cosines = index_part(index, layout->radius); // not yet used by radii
    if (head->n_units < OUTLIER_CHUNKS_MIN) return;
    for (uint32_t u = 0; u < head->n_units; u++)
        cosines[u] = least_cosine(rows->k + (size_t)begin[u] * d, begin[u + 1] - begin[u], d);
    const uint32_t n = (head->n_units + CHUNKS_PER_OUTLIER - 1) / CHUNKS_PER_OUTLIER;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t worst = 0;
        for (uint32_t u = 1; u < head->n_units; u++)
            if (cosines[u] < cosines[worst]) worst = u;
        outliers[worst] = 1;
        cosines[worst] = INFINITY;
    }
}

// The BLOCK_KEYS rows of each block that received most attention, by position; without `received`
// a block keeps none, and its mean will represent it.
static void choose_block_rows(const struct selector_rows *rows, const struct index_layout *layout,
                              void *index)
{
    const struct index_head *head = index;
    const uint32_t *begin = index_at(index, layout->unit_begin);
    uint16_t *chosen = index_part(index, layout->block_rows);
    for (uint32_t u = 0; u < head->n_units; u++) {
        uint16_t *keys = chosen + (size_t)u * BLOCK_KEYS;
        const uint32_t n = begin[u + 1] - begin[u];
        uint32_t n_kept = 0;
        for (uint32_t row = begin[u]; row < begin[u + 1]; row++) {
            uint32_t at = n_kept;
            while (at > 0 && rows->received[row] > rows->received[keys[at - 1]])
                at--;
            if (at == BLOCK_KEYS) continue;
            if (n_kept < BLOCK_KEYS) n_kept++;
            memmove(keys + at + 1, keys + at, (n_kept - at - 1) * sizeof *keys);
            keys[at] = (uint16_t)row;
        }
        for (uint32_t i = n; i < BLOCK_KEYS; i++)
            keys[i] = keys[0];
    }
}

void group_runs(const struct selector_params *params, const struct selector_rows *rows,
                const struct index_layout *layout, void *index)
{
    struct index_head *head = index;
    uint32_t *begin = index_part(index, layout->unit_begin);
    uint16_t *positions = index_part(index, layout->positions);
    head->n_units = layout->units_max;
    for (uint32_t u = 0; u < head->n_units; u++)
        begin[u] = u * params->unit_tokens;
    begin[head->n_units] = rows->n_rows;
    for (uint32_t i = 0; i < rows->n_rows; i++)
        positions[i] = (uint16_t)i;
    if (params->kind == FATHOM_SELECTOR_CHUNK) flag_outliers(rows, params->d_k, layout, index);
    if (params->kind == FATHOM_SELECTOR_BLOCK && rows->received != NULL) {
        head->block_keys = BLOCK_KEYS;
        choose_block_rows(rows, layout, index);
    }
}
