// The disk tier's store: one implementation of src/iface/store.h over any queue of io/queue.h.

#ifndef FATHOM_IO_DISK_STORE_H
#define FATHOM_IO_DISK_STORE_H

#include "io/queue.h"
#include "src/iface/store.h"

extern const struct store_ops store_ops;

// As store_ops.open, but with this queue and no other. For tests and benches.
FATHOM_MUST_USE fathom_status disk_store_open(const struct store_params *params,
                                              const struct queue_ops *queue_ops,
                                              struct store **store);
// The file's descriptor, the store's own. For tests, which damage the file, and for benches.
int disk_store_fd(const struct store *store);

#endif
