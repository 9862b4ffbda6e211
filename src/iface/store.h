// Contract: the disk tier. One file of extents, each a whole number of pages, written once, read in
// parts, freed, and its place used again. Every page has a checksum in RAM, which a read verifies.
//
// One thread at a time. Nothing but open allocates.

#ifndef FATHOM_SRC_IFACE_STORE_H
#define FATHOM_SRC_IFACE_STORE_H

#include "fathom/types.h"
#include "src/base/log.h"

enum { STORE_PAGE_BYTES = 4096 };

struct store_params {
    const char *dir;        // the file is made there, and unlinked at once: it dies with us
    uint64_t bytes_max;     // of the file
    uint64_t day_bytes_max; // written per 24 hours; 0: no cap
    uint32_t depth;         // reads in flight; default 128
    void *buffer;           // page-aligned memory that reads go to; registered where possible
    size_t buffer_bytes;
    struct log log; // borrows its user
};

struct store_extent {
    uint64_t first_page;
    uint32_t n_pages;
    uint32_t generation; // of the first page; a stale extent is EINVAL
};

// One read. `at` lies in the store's buffer, page-aligned. status: FATHOM_IN_PROGRESS until it is
// done; EIO or ECORRUPT name the file, the extent and the page in fathom_last_error's text.
struct store_read {
    struct store_extent extent;
    uint32_t page; // first, in the extent
    uint32_t n_pages;
    void *at;
    fathom_status status;
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
    void (*close)(struct store **store); // waits for what is in flight
    // Writes n_pages pages; `data` is page-aligned and may be used again on return. EFULL when a
    // cap or the disk is reached: nothing is written then.
    fathom_status (*write)(struct store *store, const void *data, uint32_t n_pages,
                           struct store_extent *extent);
    void (*release)(struct store *store, struct store_extent extent);
    // Begins n reads (any number: those past the depth wait their turn). The array must stay until
    // wait returns without IN_PROGRESS. One batch at a time.
    fathom_status (*submit)(struct store *store, struct store_read *reads, size_t n);
    // Waits for the batch, up to deadline_ns of the monotonic clock (INT64_MAX: for all). Returns
    // the worst status of the batch, or FATHOM_IN_PROGRESS if the deadline passed first.
    fathom_status (*wait)(struct store *store, int64_t deadline_ns);
    void (*stats)(const struct store *store, struct store_stats *stats);
    const char *(*text)(const struct store *store); // "io_uring, O_DIRECT, 128 deep": for the log
};

#endif
