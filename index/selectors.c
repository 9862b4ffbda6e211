// The selectors' table of operations, and their parameters.

#include "index/selectors.h"

#include "index/group.h"
#include "index/represent.h"
#include "index/search.h"
#include "src/base/mem.h"
#include "src/base/status.h"

enum { SEGMENT_TOKENS_MAX = 65536, D_MAX = 256, GROUP_MAX = 256 };
static const float CANDIDATES = 2.0f; // times the budget

static fathom_status check_params(const struct selector_params *p)
{
    if (p->kind < FATHOM_SELECTOR_CLUSTER || p->kind > FATHOM_SELECTOR_FLAT)
        return status_set(FATHOM_EINVAL, "selector %d: there is none of that number", (int)p->kind);
    if (p->rank_by < FATHOM_RANK_BALL || p->rank_by > FATHOM_RANK_BOX)
        return status_set(FATHOM_EINVAL, "rank_by %d: there is none of that number",
                          (int)p->rank_by);
    if (p->d_k == 0 || p->d_k > D_MAX || p->d_v == 0 || p->d_v > D_MAX)
        return status_set(FATHOM_EINVAL, "head sizes %u and %u: must be 1 to %d", p->d_k, p->d_v,
                          D_MAX);
    const uint32_t n_queries = p->n_queries_max > 0 ? p->n_queries_max : 1;
    if (p->n_kv_heads == 0 || p->group == 0 || p->group > GROUP_MAX / n_queries)
        return status_set(FATHOM_EINVAL,
                          "%u KV heads, %u query heads each, of %u queries: must be above 0, and "
                          "at most %d query heads in all of a KV head",
                          p->n_kv_heads, p->group, n_queries, GROUP_MAX);
    if (p->stage2_bits != 0 && p->stage2_bits != 4 && p->stage2_bits != 8)
        return status_set(FATHOM_EINVAL, "stage2_bits=%u: must be 0, 4 or 8", p->stage2_bits);
    if (p->segment_tokens_max == 0 || p->segment_tokens_max > SEGMENT_TOKENS_MAX)
        return status_set(FATHOM_EINVAL, "a segment of %u tokens: must be 1 to %d",
                          p->segment_tokens_max, SEGMENT_TOKENS_MAX);
    if (p->n_rows_max > UINT32_MAX)
        return status_set(FATHOM_EINVAL, "%llu rows of a sequence: must be below 2^32",
                          (unsigned long long)p->n_rows_max);
    return FATHOM_OK;
}

// Fills in defaults, and drops what a kind has no use for.
static void complete(struct selector_params *p)
{
    static const uint32_t unit_tokens[] = {
        [FATHOM_SELECTOR_CLUSTER] = 16,
        [FATHOM_SELECTOR_CHUNK] = 8,
        [FATHOM_SELECTOR_BLOCK] = 128,
        [FATHOM_SELECTOR_FLAT] = 1,
    };
    if (p->n_queries_max == 0) p->n_queries_max = 1;
    if (p->unit_tokens == 0) p->unit_tokens = unit_tokens[p->kind];
    if (p->unit_tokens > p->segment_tokens_max) p->unit_tokens = p->segment_tokens_max;
    if (!(p->candidates >= 1)) p->candidates = p->candidates > 0 ? 1 : CANDIDATES;
    if (p->stage2_bits == 0) p->stage2_in_rows = false;
    if (p->kind != FATHOM_SELECTOR_FLAT) return;
    // The oracle: a unit is a key, its representative the key itself.
    p->unit_tokens = 1;
    p->index_q8 = false;
    p->rank_by = FATHOM_RANK_MEAN;
    p->stage2_bits = 0;
    p->stage2_in_rows = false;
}

static fathom_status open_selector(const struct selector_params *params, struct selector **selector)
{
    FATHOM_TRY(check_params(params));
    FATHOM_TRY(mem_new(1, sizeof **selector, "selector", selector));
    (*selector)->params = *params;
    complete(&(*selector)->params);
    return FATHOM_OK;
}

static void close_selector(struct selector **selector)
{
    if (selector == NULL) return;
    mem_free(*selector);
    *selector = NULL;
}

static size_t index_bytes(const struct selector *selector, uint32_t n_rows)
{
    const struct index_form form = index_form_of(&selector->params, n_rows);
    struct index_layout layout;
    index_layout_of(&form, &layout);
    return layout.bytes;
}

static uint32_t units_max(const struct selector *selector, uint32_t n_rows)
{
    const struct index_form form = index_form_of(&selector->params, n_rows);
    struct index_layout layout;
    index_layout_of(&form, &layout);
    return layout.units_max;
}

static size_t scratch_bytes(const struct selector *selector, uint32_t n_rows)
{
    return group_scratch_bytes(&selector->params, n_rows);
}

static void group(const struct selector *selector, const struct selector_rows *rows, void *index,
                  uint32_t *order, void *scratch)
{
    group_rows(&selector->params, rows, index, order, scratch);
}

static void represent(const struct selector *selector, const float *k, const float *v,
                      uint32_t n_rows, void *index, void *scratch)
{
    (void)scratch;
    represent_rows(&selector->params, k, v, n_rows, index);
}

static uint32_t n_units(const void *index)
{
    return ((const struct index_head *)index)->n_units;
}

static const uint32_t *unit_begins(const void *index)
{
    struct index_layout layout;
    index_layout_of(&((const struct index_head *)index)->form, &layout);
    return index_at(index, layout.unit_begin);
}

static const uint16_t *positions(const void *index)
{
    struct index_layout layout;
    index_layout_of(&((const struct index_head *)index)->form, &layout);
    return index_at(index, layout.positions);
}

static fathom_status check(const struct selector *selector, const void *index, size_t bytes,
                           uint32_t n_rows)
{
    const struct index_form form = index_form_of(&selector->params, n_rows);
    return index_check(&form, index, bytes);
}

const struct selector_ops selector_ops = {
    .open = open_selector,
    .close = close_selector,
    .index_bytes = index_bytes,
    .scratch_bytes = scratch_bytes,
    .group = group,
    .represent = represent,
    .n_units = n_units,
    .unit_begins = unit_begins,
    .positions = positions,
    .check = check,
    .units_max = units_max,
    .search_open = search_open,
    .search_bytes = search_bytes,
    .search_close = search_close,
    .begin = search_begin,
    .pick = search_pick,
    .pick_head = search_pick_head,
    .survey = search_survey,
    .leave = search_leave,
    .estimate = search_estimate,
};
