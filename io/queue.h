// Contract inside io/: moves bytes between one file and memory, many requests at a time.
//
// One thread at a time, not always the same one. A request fails by its result, never otherwise:
// so what is in flight is always known, and memory that the kernel may still write is never freed.

#ifndef FATHOM_IO_QUEUE_H
#define FATHOM_IO_QUEUE_H

#include "fathom/types.h"

struct queue_params {
    int fd;         // borrows, until close
    uint32_t depth; // requests in flight, 1 or more
    void *buffer;   // where most reads go; page-aligned; held, and pinned where possible
    size_t buffer_bytes;
};

struct queue_op {
    void *to;         // of a read; NULL: a write
    const void *from; // of a write
    uint64_t offset;  // of the file
    uint32_t bytes;   // above 0
    uint32_t slot;    // the caller's number for it, below depth; one op at a time has it
};

struct queue_done {
    uint32_t slot;
    int32_t result; // bytes moved, maybe fewer than asked, or -errno
};

struct queue;

struct queue_ops {
    // EUNSUPPORTED when the machine or the build lacks it.
    fathom_status (*open)(const struct queue_params *params, struct queue **queue);
    void (*close)(struct queue **queue); // nothing is in flight
    // Takes a request; at most depth at a time. It may not start before the next reap.
    void (*push)(struct queue *queue, const struct queue_op *op);
    // Starts what was pushed and gives what is done, in any order: sleeps until at least n_min
    // (no more than are in flight) or the deadline of the monotonic clock (INT64_MAX: none; a past
    // one: never sleeps). done has room for depth.
    size_t (*reap)(struct queue *queue, size_t n_min, int64_t deadline_ns, struct queue_done *done);
    const char *(*text)(const struct queue *queue); // "io_uring, pinned buffer"
};

extern const struct queue_ops queue_uring; // never opens in a build without liburing
extern const struct queue_ops queue_pread; // a team of threads; works everywhere

#endif
