// Free and taken pages by boundary: every page belongs to one range, ranges know their neighbours,
// and no two free ones touch. A take splits the first free range that is large enough, from the
// list of its own size or the next larger sizes, so the end of the file is used last.
//
// An entry of the table is an extent's name together with its generation, which never repeats (in
// 2^31 uses). Entries never outnumber pages, since each range has a page.

#include "io/store_ranges.h"

#include "src/base/mem.h"
#include "src/base/status.h"

#include <assert.h>

static const uint32_t none = UINT32_MAX;

static uint32_t list_of(uint32_t n_pages)
{
    return 31 - (uint32_t)__builtin_clz(n_pages);
}

static bool is_taken(const struct store_range *range)
{
    return (range->generation & 1) != 0;
}

static void enlist(struct store_ranges *ranges, uint32_t index)
{
    struct store_range *range = &ranges->items[index];
    range->list = list_of(range->n_pages);
    range->previous = none;
    range->next = ranges->lists[range->list];
    if (range->next != none) ranges->items[range->next].previous = index;
    ranges->lists[range->list] = index;
}

static void unlist(struct store_ranges *ranges, uint32_t index)
{
    const struct store_range *range = &ranges->items[index];
    if (range->previous != none)
        ranges->items[range->previous].next = range->next;
    else
        ranges->lists[range->list] = range->next;
    if (range->next != none) ranges->items[range->next].previous = range->previous;
}

static uint32_t new_entry(struct store_ranges *ranges)
{
    uint32_t index = ranges->unused;
    if (index == none) return ranges->n_items++;
    ranges->unused = ranges->items[index].next;
    return index;
}

fathom_status store_ranges_init(struct store_ranges *ranges, uint32_t n_pages)
{
    void *items = NULL;
    assert(n_pages > 0 && n_pages < none);
    FATHOM_TRY(mem_reserve(n_pages * sizeof ranges->items[0], MEM_PAGES_SMALL,
                           "extents of the disk tier", &items));
    *ranges = (struct store_ranges){
        .items = items, .n_pages = n_pages, .n_free_pages = n_pages, .unused = none};
    for (uint32_t i = 0; i < STORE_RANGE_LISTS; i++)
        ranges->lists[i] = none;
    uint32_t index = new_entry(ranges);
    ranges->items[index] = (struct store_range){.n_pages = n_pages, .below = none, .above = none};
    enlist(ranges, index);
    return FATHOM_OK;
}

void store_ranges_fini(struct store_ranges *ranges)
{
    mem_unreserve(ranges->items, ranges->n_pages * sizeof ranges->items[0]);
    *ranges = (struct store_ranges){0};
}

static uint32_t find_free(const struct store_ranges *ranges, uint32_t n_pages)
{
    for (uint32_t list = list_of(n_pages); list < STORE_RANGE_LISTS; list++)
        for (uint32_t i = ranges->lists[list]; i != none; i = ranges->items[i].next)
            if (ranges->items[i].n_pages >= n_pages) return i;
    return none;
}

// Leaves the first n_pages to the range and makes a new one of the rest.
static void split(struct store_ranges *ranges, uint32_t index, uint32_t n_pages)
{
    uint32_t rest_index = new_entry(ranges);
    struct store_range *range = &ranges->items[index];
    struct store_range *rest = &ranges->items[rest_index];
    rest->first_page = range->first_page + n_pages;
    rest->n_pages = range->n_pages - n_pages;
    rest->below = index;
    rest->above = range->above;
    if (rest->above != none) ranges->items[rest->above].below = rest_index;
    range->above = rest_index;
    range->n_pages = n_pages;
    enlist(ranges, rest_index);
}

bool store_ranges_take(struct store_ranges *ranges, uint32_t n_pages, struct store_extent *extent)
{
    uint32_t index = find_free(ranges, n_pages);
    if (index == none) return false;
    struct store_range *range = &ranges->items[index];
    unlist(ranges, index);
    if (range->n_pages > n_pages) split(ranges, index, n_pages);
    range->generation++;
    ranges->n_free_pages -= n_pages;
    *extent = (struct store_extent){range->first_page, n_pages, index, range->generation};
    return true;
}

bool store_ranges_has(const struct store_ranges *ranges, struct store_extent extent)
{
    if (extent.range >= ranges->n_items) return false;
    const struct store_range *range = &ranges->items[extent.range];
    return is_taken(range) && range->generation == extent.generation &&
           range->first_page == extent.first_page && range->n_pages == extent.n_pages;
}

// Joins a free range to the free one right below it; its own entry becomes unused.
static void join(struct store_ranges *ranges, uint32_t below, uint32_t index)
{
    struct store_range *range = &ranges->items[index];
    ranges->items[below].n_pages += range->n_pages;
    ranges->items[below].above = range->above;
    if (range->above != none) ranges->items[range->above].below = below;
    range->next = ranges->unused;
    ranges->unused = index;
}

void store_ranges_give(struct store_ranges *ranges, struct store_extent extent)
{
    assert(store_ranges_has(ranges, extent));
    uint32_t index = extent.range;
    struct store_range *range = &ranges->items[index];
    range->generation++;
    ranges->n_free_pages += range->n_pages;
    if (range->above != none && !is_taken(&ranges->items[range->above])) {
        unlist(ranges, range->above);
        join(ranges, index, range->above);
    }
    if (range->below != none && !is_taken(&ranges->items[range->below])) {
        uint32_t below = range->below;
        unlist(ranges, below);
        join(ranges, below, index);
        index = below;
    }
    enlist(ranges, index);
}
