// Grouping by the selector's kind.

#include "index/group.h"

#include <string.h>

size_t group_scratch_bytes(const struct selector_params *params, uint32_t n_rows)
{
    return params->kind == FATHOM_SELECTOR_CLUSTER ? group_cluster_scratch_bytes(params, n_rows)
                                                   : 0;
}

void group_rows(const struct selector_params *params, const struct selector_rows *rows, void *index,
                uint32_t *order, void *scratch)
{
    struct index_head *head = index;
    struct index_layout layout;
    const struct index_form form = index_form_of(params, rows->n_rows);
    index_layout_of(&form, &layout);
    memset(index, 0, layout.bytes);
    head->magic = INDEX_MAGIC;
    head->version = INDEX_VERSION;
    head->form = form;
    head->bytes = layout.bytes;
    if (params->kind == FATHOM_SELECTOR_CLUSTER)
        group_cluster(params, rows, &layout, index, scratch);
    else
        group_runs(params, rows, &layout, index);
    const uint16_t *positions = index_at(index, layout.positions);
    for (uint32_t i = 0; i < rows->n_rows; i++)
        order[i] = positions[i];
}
