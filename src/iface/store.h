// Contract: the disk tier. One file of extents, each a whole number of pages, written once, read in
// parts, freed, and its place used again. Every page has a checksum in RAM, which a read verifies.
//
// One thread at a time, not always the same one. Nothing but open allocates; the tables grow into
// what open reserved, by STORE_PAGE_RAM_BYTES for each page of the file that was ever written and
// up to STORE_EXTENT_RAM_BYTES for each extent held at once (with the gap behind it).

#ifndef FATHOM_SRC_IFACE_STORE_H
#define FATHOM_SRC_IFACE_STORE_H

#include "fathom/types.h"
#include "src/base/log.h"

enum { STORE_PAGE_BYTES = 4096, STORE_PAGE_RAM_BYTES = 4, STORE_EXTENT_RAM_BYTES = 64 };

struct store_params {
    const char *dir;        // the file is made there, and unlinked at once: it dies with us
    uint64_t bytes_max;     // of the file; below 16 TiB
    uint64_t day_bytes_max; // written per 24 hours; 0: no cap
    uint32_t depth;         // reads in flight, up to 4096; 0: 128
    void *buffer;           // page-aligned memory that reads go to; held, and pinned where possible
    size_t buffer_bytes;
    struct log log; // borrows its user
};

// Opaque but for n_pages. All zeros is no extent.
struct store_extent {
    uint32_t first_page; // of the file
    uint32_t n_pages;
    uint32_t range;      // of the store's table
    uint32_t generation; // of the range; a stale extent is EINVAL
};

// One read. `at` lies in the store's buffer, page-aligned. status: FATHOM_IN_PROGRESS until it is
// done; EIO or ECORRUPT name the file, the extent and the page in the text of wait.
struct store_read {
    struct store_extent extent;
    uint32_t page; // first, in the extent
    uint32_t n_pages;
    void *at;
    fathom_status status;
    struct store_read *next; // the store's: of those that wait their turn
};

struct store_stats {
    uint64_t bytes_held;
    uint64_t bytes_written;
    uint64_t bytes_read;
    uint64_t n_reads;
    uint64_t n_stalls; // waits that had to sleep
};

struct store;

struct store_ops {
    fathom_status (*open)(const struct store_params *params, struct store **store);
    // Waits for what is in flight; reads that still wait their turn are dropped.
    void (*close)(struct store **store);
    // Writes n_pages pages; `data` is page-aligned and may be used again on return. Reads may be
    // under way meanwhile. EFULL when a cap or the disk is reached: nothing is held
    // then, nor after EIO.
    fathom_status (*write)(struct store *store, const void *data, uint32_t n_pages,
                           struct store_extent *extent);
    // Waits for the reads that are under way, if there are any. A stale extent changes nothing.
    void (*release)(struct store *store, struct store_extent extent);
    // Begins n reads (any number: those past the depth wait their turn), beside those that are
    // under way. Each must stay until it is done, or until close. EINVAL begins nothing.
    fathom_status (*submit)(struct store *store, struct store_read *reads, size_t n);
    // Waits for all reads that are under way, up to deadline_ns of the monotonic clock (INT64_MAX:
    // without end). Returns FATHOM_IN_PROGRESS if the deadline passed first; else the worst
    // (lowest) status, with its text, of all that were begun since it last returned another; until
    // more are begun, the same again. Those that wait their turn move up only in here, in await, in
    // write, in release and in submit.
    fathom_status (*wait)(struct store *store, int64_t deadline_ns);
    // Waits for one read that was begun, up to the deadline: its status says what became of it.
    void (*await)(struct store *store, const struct store_read *read, int64_t deadline_ns);
    void (*stats)(const struct store *store, struct store_stats *stats);
    const char *(*text)(const struct store *store); // "io_uring, O_DIRECT, 128 deep": for the log
};

#endif
