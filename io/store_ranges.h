// Which pages of the disk tier's file are taken: ranges in the order of the file, neighbours of
// free ones joined.

#ifndef FATHOM_IO_STORE_RANGES_H
#define FATHOM_IO_STORE_RANGES_H

#include "src/iface/store.h"

// Free ranges of 2^i to 2^(i+1) - 1 pages are in list i.
enum { STORE_RANGE_LISTS = 32 };

struct store_range {
    uint32_t first_page;
    uint32_t n_pages;
    uint32_t generation; // odd while taken; grows whenever taken or given back
    uint32_t below;      // neighbours in the file
    uint32_t above;
    uint32_t previous; // in its list, while free
    uint32_t next;     // in its list, or in the list of unused entries
    uint32_t list;     // while free
};

struct store_ranges {
    struct store_range *items; // [n_pages] reserved; the first n_items have been in use
    uint32_t n_pages;          // of the whole file
    uint32_t n_items;
    uint32_t n_free_pages;
    uint32_t unused; // entries that describe nothing
    uint32_t lists[STORE_RANGE_LISTS];
};

// All n_pages (above 0, below 2^32 - 1) are free.
FATHOM_MUST_USE fathom_status store_ranges_init(struct store_ranges *ranges, uint32_t n_pages);
void store_ranges_fini(struct store_ranges *ranges); // also of a zeroed one
// False when no free run of n_pages (above 0) is left.
bool store_ranges_take(struct store_ranges *ranges, uint32_t n_pages, struct store_extent *extent);
// Whether this very extent was taken and not given back.
bool store_ranges_has(const struct store_ranges *ranges, struct store_extent extent);
void store_ranges_give(struct store_ranges *ranges, struct store_extent extent); // has it

#endif
