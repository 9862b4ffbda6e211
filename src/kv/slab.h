// Places of equal size in one reservation of address space, which become memory as they are used
// and cease to be when they are given back.

#ifndef FATHOM_SRC_KV_SLAB_H
#define FATHOM_SRC_KV_SLAB_H

#include "fathom/types.h"

#define SLAB_NONE UINT32_MAX

struct slab {
    uint8_t *base; // page-aligned
    size_t place_bytes;
    uint32_t n_places;
    uint32_t n_free;
    uint32_t *free; // [n_places], the first n_free are free
};

// place_bytes is rounded up to whole pages. n_places may be 0: then nothing can be taken.
FATHOM_MUST_USE fathom_status slab_open(struct slab *slab, size_t place_bytes, uint32_t n_places,
                                        const char *what);
void slab_close(struct slab *slab);

uint32_t slab_take(struct slab *slab);             // SLAB_NONE: all are in use
void slab_give(struct slab *slab, uint32_t place); // SLAB_NONE does nothing

static inline uint8_t *slab_at(const struct slab *slab, uint32_t place)
{
    return slab->base + place * slab->place_bytes;
}

#endif
