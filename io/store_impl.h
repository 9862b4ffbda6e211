// Shared by disk_store.c and store_flight.c: what a store is.

#ifndef FATHOM_IO_STORE_IMPL_H
#define FATHOM_IO_STORE_IMPL_H

#include "io/disk_store.h"
#include "io/store_day.h"
#include "io/store_ranges.h"

// How reads or a write go.
struct outcome {
    size_t n_left;        // requests that have not ended
    fathom_status status; // the lowest so far
    char text[512];
};

struct flight {
    struct queue_op op; // in flight, or the last that was
    struct store_extent extent;
    uint32_t page;    // of the extent, where op begins
    uint32_t n_pages; // that are left
    struct outcome *outcome;
    struct store_read *read; // NULL: a piece of a write
};

struct store {
    char *dir;
    int fd; // -1: not open
    const struct queue_ops *queue_ops;
    struct queue *queue;
    char *buffer;
    size_t buffer_bytes;
    struct store_ranges ranges;
    uint32_t *checksums;    // [ranges.n_pages] reserved
    uint32_t n_file_pages;  // the file's length
    uint64_t day_bytes_max; // 0: no cap
    struct store_day day;   // what was written in it
    uint32_t depth;
    struct flight *flights; // [depth]
    uint32_t *idle;         // [depth] the first n_idle: flights not in use
    uint32_t n_idle;
    struct queue_done *done;    // [depth]
    struct store_read *waiting; // reads that have not taken off, oldest first
    struct store_read **newest; // where the next one is linked to
    struct outcome reads;       // of all since wait_reads last told of them
    bool told;                  // of reads: the next ones are new ones
    struct store_stats stats;
    char text[96];
};

// ---- store_flight.c ----

// As a status, with the text.
FATHOM_MUST_USE fathom_status store_flight_pass(const struct outcome *outcome);
// Reads that wait take off as far as there are idle flights.
void store_flight_begin_reads(struct store *store);
// Begins to write the next piece of the extent, from its page `page`, for which `data` (the whole
// extent's) stays until it has landed; an idle flight is there. Returns its pages.
uint32_t store_flight_begin_piece(struct store *store, struct store_extent extent, uint32_t page,
                                  const char *data, struct outcome *outcome);
// Starts what was pushed, lands what is done, lets the next reads take off; returns how many
// requests landed. Sleeps for n_min of them, which must be in flight, up to the deadline.
size_t store_flight_turn(struct store *store, size_t n_min, int64_t deadline_ns);

#endif
