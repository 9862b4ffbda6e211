// Places of segments, and who holds them.

#include "src/kv/segment.h"

static struct segment *find_free(struct segments *segments)
{
    for (uint32_t i = 0; i < segments->n_all; i++)
        if (segments->all[i].refs == 0) return &segments->all[i];
    return NULL;
}

struct segment *segment_new(struct segments *segments, enum segment_size size, uint32_t n_rows)
{
    struct segment_class *class = &segments->classes[size];
    struct segment *segment = find_free(segments);
    if (segment == NULL || class->rows.n_free == 0 || class->indexes.n_free == 0) return NULL;
    *segment = (struct segment){
        .refs = 1,
        .size = size,
        .n_rows = n_rows,
        .index_place = slab_take(&class->indexes),
        .rows_place = slab_take(&class->rows),
        .id = segments->next_id++,
    };
    if (segments->extents != NULL)
        segment->extents =
            segments->extents + (size_t)(segment - segments->all) * segments->n_heads;
    segments->n_alive++;
    return segment;
}

void segment_hold(struct segment *segment)
{
    segment->refs++;
}

void segment_drop(struct segments *segments, struct segment *segment)
{
    struct segment_class *class = &segments->classes[segment->size];
    if (--segment->refs > 0) return;
    if (segment->rows_place == SLAB_NONE)
        for (uint32_t head = 0; head < segments->n_heads; head++)
            segments->store_ops->release(segments->store, segment->extents[head]);
    slab_give(&class->rows, segment->rows_place);
    slab_give(&class->indexes, segment->index_place);
    segments->n_alive--;
}
