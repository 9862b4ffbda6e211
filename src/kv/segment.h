// Sealed segments: a run of consecutive tokens, of all layers, immutable once built, shared by the
// sequences that hold it.
//
// A segment's rows lie head by head, [n_layers, n_kv_heads], each head's in unit order, unit by
// unit: the K rows of a unit, then its V rows. Its index block holds for each of the same heads the
// selector's index and, where rows are in codes, k_min and k_step.

#ifndef FATHOM_SRC_KV_SEGMENT_H
#define FATHOM_SRC_KV_SEGMENT_H

#include "src/iface/selector.h"
#include "src/iface/store.h"
#include "src/kv/slab.h"

// Segments come in two sizes: as sealed, and merged.
enum segment_size { SEGMENT_SMALL = 0, SEGMENT_MERGED = 1, SEGMENT_SIZES = 2 };

struct segment {
    uint32_t refs; // sequences that hold it, and the job that builds it; 0: this place is free
    enum segment_size size;
    uint32_t n_rows;
    uint32_t index_place;
    uint32_t rows_place;          // SLAB_NONE: on disk
    uint32_t id;                  // never given twice
    bool busy;                    // a job builds it, or writes it to disk
    uint64_t heat;                // rows read of it, halved now and then
    struct store_extent *extents; // [n_layers * n_kv_heads]; meaningful while on disk
};

// What segments of one size have in common.
struct segment_class {
    uint32_t n_rows_max;
    struct kv_format format;
    size_t k_row_bytes;
    size_t v_row_bytes;
    size_t head_bytes;       // of rows, whole pages
    size_t index_bytes;      // of the selector's index of one head
    size_t index_head_bytes; // with k_min and k_step behind it
    struct slab rows;
    struct slab indexes;
};

// All segments of an engine.
struct segments {
    struct segment_class classes[SEGMENT_SIZES];
    struct segment *all; // [n_all]
    uint32_t n_all;
    uint32_t n_alive;
    uint32_t n_heads; // n_layers * n_kv_heads
    uint32_t next_id;
    struct store_extent *extents; // [n_all, n_heads] if there is a disk
    const struct store_ops *store_ops;
    struct store *store;   // NULL: no disk
    bool store_failed;     // a write failed: nothing more is written
    char store_error[256]; // why
};

// A segment with places for its index and rows and one reference; NULL when there is none left.
struct segment *segment_new(struct segments *segments, enum segment_size size, uint32_t n_rows);
void segment_hold(struct segment *segment);
void segment_drop(struct segments *segments, struct segment *segment);

static inline const struct segment_class *segment_class(const struct segments *segments,
                                                        const struct segment *segment)
{
    return &segments->classes[segment->size];
}

// Of a row of a head, keys and values together.
static inline size_t segment_row_bytes(const struct segments *segments,
                                       const struct segment *segment)
{
    const struct segment_class *class = segment_class(segments, segment);
    return class->k_row_bytes + class->v_row_bytes;
}

// Rows of a head; NULL when they are on disk.
static inline uint8_t *segment_rows(const struct segments *segments, const struct segment *segment,
                                    uint32_t head)
{
    const struct segment_class *class = segment_class(segments, segment);
    if (segment->rows_place == SLAB_NONE) return NULL;
    return slab_at(&class->rows, segment->rows_place) + head * class->head_bytes;
}

static inline uint8_t *segment_index(const struct segments *segments, const struct segment *segment,
                                     uint32_t head)
{
    const struct segment_class *class = segment_class(segments, segment);
    return slab_at(&class->indexes, segment->index_place) + head * class->index_head_bytes;
}

// k_min [d_k], and k_step [d_k] behind it, of a head; NULL for plain rows.
static inline float *segment_k_range(const struct segments *segments, const struct segment *segment,
                                     uint32_t head)
{
    const struct segment_class *class = segment_class(segments, segment);
    void *range = segment_index(segments, segment, head) + class->index_bytes;
    return class->format.bits == 0 ? NULL : range;
}

#endif
