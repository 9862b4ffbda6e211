// What a step wants of spilled segments, unit by unit or in long pieces, and what it goes without.

#include "src/kv/sealed.h"

enum { WANT_BYTES_MAX = 512 << 10 }; // of a piece

void wants_picked(fathom_engine *engine, const struct slot *slot, uint32_t kv_head)
{
    struct fetch *fetch = &engine->fetch;
    const struct selection *s = &engine->selections[kv_head];
    struct want *last = NULL;
    for (uint32_t i = 0; i < s->n_runs; i++) {
        const struct picked_run *run = &s->runs[i];
        const struct segment *segment = slot->sealed[run->segment].segment;
        if (segment->rows_place != SLAB_NONE) continue;
        if (last != NULL && last->sealed == run->segment && last->unit == run->unit &&
            last->run_end == i) {
            last->run_end++;
            continue;
        }
        last = &fetch->wants[fetch->n_wants++];
        *last = (struct want){.segment = segment,
                              .sealed = run->segment,
                              .kv_head = kv_head,
                              .unit = run->unit,
                              .unit_end = run->unit + 1,
                              .run = i,
                              .run_end = i + 1};
    }
}

static void want_segment(fathom_engine *engine, const struct slot *slot, uint32_t layer,
                         uint32_t kv_head, uint32_t sealed)
{
    struct fetch *fetch = &engine->fetch;
    const struct segment *segment = slot->sealed[sealed].segment;
    const uint32_t head = layer * engine->params.n_kv_heads + kv_head;
    const struct segment_class *class = segment_class(&engine->segments, segment);
    const uint32_t *begins = engine_begins(engine, segment, head);
    const uint32_t n_units = engine_units(engine, segment, head);
    const size_t row_bytes = class->k_row_bytes + class->v_row_bytes;
    const size_t buffer_share = (size_t)fetch->n_pages * STORE_PAGE_BYTES / 8;
    const size_t most = buffer_share < WANT_BYTES_MAX ? buffer_share : WANT_BYTES_MAX;
    for (uint32_t unit = 0, end; unit < n_units; unit = end) {
        end = unit + 1;
        while (end < n_units && (begins[end + 1] - begins[unit]) * row_bytes <= most)
            end++;
        fetch->wants[fetch->n_wants++] = (struct want){.segment = segment,
                                                       .sealed = sealed,
                                                       .kv_head = kv_head,
                                                       .unit = unit,
                                                       .unit_end = end};
    }
}

void wants_all(fathom_engine *engine, const struct slot *slot, uint32_t layer)
{
    for (uint32_t kv_head = 0; kv_head < engine->params.n_kv_heads; kv_head++)
        for (uint32_t i = 0; i < slot->n_sealed; i++)
            if (slot->sealed[i].segment->rows_place == SLAB_NONE)
                want_segment(engine, slot, layer, kv_head, i);
}

void wants_leave(fathom_engine *engine, uint32_t first, uint32_t n)
{
    struct fetch *fetch = &engine->fetch;
    for (uint32_t i = first; i < first + n; i++) {
        const struct want *want = &fetch->wants[i];
        struct selection *s = &engine->selections[want->kv_head];
        if (fetch_has(want)) continue;
        fetch->left[fetch->n_left++] = (struct left_unit){want->kv_head, want->sealed, want->unit};
        for (uint32_t run = want->run; run < want->run_end; run++)
            s->n_rows -= s->runs[run].n_rows;
    }
}
