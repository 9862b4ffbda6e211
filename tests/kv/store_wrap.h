// The store that an engine gets, told by the test: link with store_wrap.c and
// -Wl,--wrap=wire_store_ops.

#ifndef FATHOM_TESTS_KV_STORE_WRAP_H
#define FATHOM_TESTS_KV_STORE_WRAP_H

#include "io/disk_store.h"

struct store_wrap {
    const struct queue_ops *queue_ops; // NULL: as the store chooses
    struct store *opened;              // the latest
};
extern struct store_wrap store_wrap;

#endif
