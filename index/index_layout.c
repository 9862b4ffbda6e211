// Sizes and offsets of an index, and the check of one that came from a file.

#include "index/index_layout.h"

#include <math.h>
#include <string.h>

#include "src/base/hash.h"
#include "src/base/mem.h"
#include "src/base/status.h"

enum { POSITIONS_MAX = 65536 }; // that 16 bits can name

// Rows are in codes once they are merged, and merged segments are full.
static bool keys_in_rows(const struct selector_params *params, uint32_t n_rows)
{
    return params->stage2_in_rows && n_rows == params->segment_tokens_max;
}

struct index_form index_form_of(const struct selector_params *params, uint32_t n_rows)
{
    const struct index_form form = {
        .kind = params->kind,
        .d_k = params->d_k,
        .d_v = params->d_v,
        .unit_tokens = params->unit_tokens,
        .n_rows = n_rows,
        .q8 = params->index_q8,
        .box = params->rank_by == FATHOM_RANK_BOX,
        .key_bits = keys_in_rows(params, n_rows) ? 0 : params->stage2_bits,
        .values = params->estimate,
    };
    return form;
}

static uint32_t count_units_max(const struct index_form *form)
{
    const uint32_t n = form->n_rows;
    if (form->kind != FATHOM_SELECTOR_CLUSTER)
        return (n + form->unit_tokens - 1) / form->unit_tokens;
    // Rounded to nearest, at least one; and every split makes at least UNIT_SPLIT whole units less.
    const uint32_t n_clusters = (n + form->unit_tokens / 2) / form->unit_tokens;
    return (n_clusters > 0 ? n_clusters : 1) + n / (UNIT_SPLIT * form->unit_tokens);
}

// Takes the place for count items, 64-byte aligned, so that blocks of representatives are.
static size_t take(size_t *bytes, size_t count, size_t item_bytes)
{
    const size_t at = *bytes;
    *bytes = size_round(at + count * item_bytes, MEM_ALIGN_BYTES);
    return at;
}

void index_layout_of(const struct index_form *form, struct index_layout *layout)
{
    const uint32_t n = count_units_max(form);
    const uint32_t c = form->kind == FATHOM_SELECTOR_CLUSTER ? groups_of(n) : 0;
    const uint32_t n_box = form->box ? n : 0;
    const uint32_t d_keys = form->key_bits > 0 ? form->d_k : 0;
    const bool q8 = form->q8 != 0;
    size_t at = 0;
    take(&at, 1, sizeof(struct index_head));
    layout->units_max = n;
    layout->groups_max = c;
    layout->unit_begin = take(&at, n + 1, sizeof(uint32_t));
    layout->positions = take(&at, form->n_rows, sizeof(uint16_t));
    layout->radius = take(&at, n, sizeof(float));
    layout->spread = take(&at, n, sizeof(float));
    layout->reps = take(&at, reps_bytes(q8, form->d_k, n), 1);
    layout->coarse_radius = take(&at, c, sizeof(float));
    layout->coarse_spread = take(&at, c, sizeof(float));
    layout->coarse_reps = take(&at, reps_bytes(q8, form->d_k, c), 1);
    layout->mid = take(&at, reps_bytes(q8, form->d_k, n_box), 1);
    layout->half = take(&at, reps_bytes(q8, form->d_k, n_box), 1);
    layout->box_rest = take(&at, n_box, sizeof(float));
    layout->values = take(&at, form->values ? (size_t)n * form->d_v : 0, sizeof(uint16_t));
    layout->outliers = take(&at, form->kind == FATHOM_SELECTOR_CHUNK ? n : 0, 1);
    layout->block_rows = take(&at, form->kind == FATHOM_SELECTOR_BLOCK ? (size_t)n * BLOCK_KEYS : 0,
                              sizeof(uint16_t));
    layout->k_min = take(&at, d_keys, sizeof(float));
    layout->k_step = take(&at, d_keys, sizeof(float));
    layout->keys = take(&at, d_keys > 0 ? form->n_rows : 0,
                        d_keys > 0 ? kv_code_bytes(form->key_bits, form->d_k) : 0);
    layout->bytes = at;
}

uint64_t index_hash(const void *index)
{
    const struct index_head *head = index;
    const size_t begin = size_round(sizeof *head, MEM_ALIGN_BYTES);
    const uint64_t seed = hash_bytes(head, offsetof(struct index_head, hash), 0);
    return hash_bytes(index_at(index, begin), head->bytes - begin, seed);
}

static bool is_length(float x)
{
    return x >= 0 && x < INFINITY;
}

static fathom_status check_units(const struct index_head *head, const struct index_layout *layout)
{
    const uint32_t *begin = index_at(head, layout->unit_begin);
    const uint16_t *positions = index_at(head, layout->positions);
    uint64_t seen[POSITIONS_MAX / 64] = {0};
    if (head->n_units == 0 || head->n_units > layout->units_max)
        return status_set(FATHOM_ECORRUPT, "index: %u units: must be 1 to %u", head->n_units,
                          layout->units_max);
    if (begin[0] != 0 || begin[head->n_units] != head->form.n_rows)
        return status_set(FATHOM_ECORRUPT, "index: units do not span the %u rows",
                          head->form.n_rows);
    for (uint32_t u = 0; u < head->n_units; u++)
        if (begin[u] >= begin[u + 1])
            return status_set(FATHOM_ECORRUPT, "index: unit %u is empty or out of order", u);
    for (uint32_t i = 0; i < head->form.n_rows; i++) {
        const uint16_t at = positions[i];
        if (at >= head->form.n_rows || (seen[at / 64] >> at % 64 & 1) != 0)
            return status_set(FATHOM_ECORRUPT,
                              "index: position %u of row %u is not of this "
                              "segment, or comes twice",
                              at, i);
        seen[at / 64] |= 1ull << at % 64;
    }
    return FATHOM_OK;
}

fathom_status index_check(const struct index_form *form, const void *index, size_t bytes)
{
    const struct index_head *head = index;
    struct index_layout layout;
    index_layout_of(form, &layout);
    if (bytes < layout.bytes)
        return status_set(FATHOM_ECORRUPT, "index: %zu bytes, not %zu: cut short?", bytes,
                          layout.bytes);
    if (head->magic != INDEX_MAGIC || head->version != INDEX_VERSION)
        return status_set(FATHOM_ECORRUPT,
                          "index: magic %08x, version %u: no index of this version", head->magic,
                          head->version);
    if (memcmp(&head->form, form, sizeof *form) != 0 || head->bytes != layout.bytes)
        return status_set(FATHOM_ECORRUPT, "index: made for another shape or other settings");
    if (!is_length(head->rep_norm) || !is_length(head->half_norm) || !is_length(head->radius_max) ||
        !is_length(head->key_error))
        return status_set(FATHOM_ECORRUPT, "index: a length in the head is no number");
    FATHOM_TRY(check_units(head, &layout));
    if (index_hash(index) != head->hash)
        return status_set(FATHOM_ECORRUPT, "index: checksum does not match");
    return FATHOM_OK;
}
