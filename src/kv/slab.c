// A stack of free places over one reservation.

#include "src/kv/slab.h"

#include "src/base/mem.h"
#include "src/base/status.h"

enum { PAGE_BYTES = 4096 };

fathom_status slab_open(struct slab *slab, size_t place_bytes, uint32_t n_places, const char *what)
{
    size_t bytes;
    slab->place_bytes = size_round(place_bytes, PAGE_BYTES);
    slab->n_places = n_places;
    slab->n_free = n_places;
    if (n_places == 0) return FATHOM_OK;
    if (!size_mul(slab->place_bytes, n_places, &bytes))
        return status_set(FATHOM_ENOMEM, "%s: %u places exceed the address space", what, n_places);
    FATHOM_TRY(mem_new(n_places, sizeof *slab->free, what, &slab->free));
    for (uint32_t i = 0; i < n_places; i++)
        slab->free[i] = n_places - 1 - i;
    void *base;
    FATHOM_TRY(mem_reserve(bytes, MEM_PAGES_HUGE, what, &base));
    slab->base = base;
    return FATHOM_OK;
}

void slab_close(struct slab *slab)
{
    if (slab->base != NULL) mem_unreserve(slab->base, slab->place_bytes * slab->n_places);
    mem_free(slab->free);
    *slab = (struct slab){0};
}

uint32_t slab_take(struct slab *slab)
{
    return slab->n_free == 0 ? SLAB_NONE : slab->free[--slab->n_free];
}

void slab_give(struct slab *slab, uint32_t place)
{
    if (place == SLAB_NONE) return;
    mem_discard(slab_at(slab, place), slab->place_bytes);
    slab->free[slab->n_free++] = place;
}
