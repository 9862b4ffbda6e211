// What the tests and the bench of the disk tier share: a store in a folder for temporary files, its
// buffer, and pages whose content follows from two numbers.

#ifndef FATHOM_TESTS_IO_STORE_RIG_H
#define FATHOM_TESTS_IO_STORE_RIG_H

#include "io/disk_store.h"

struct store_rig {
    struct store_params params; // filled by store_rig_init; a test may change them before it opens
    struct store *store;
    char *buffer; // [params.buffer_bytes]
    char *data;   // [params.buffer_bytes] to write from
    size_t n_logged;
    int log_level; // of the last line
    char logged[1024];
};

// Folder: $FATHOM_TEST_STORE, or else $TMPDIR, or else /tmp. 16 MiB of file and of each buffer.
void store_rig_init(struct store_rig *rig, uint64_t buffer_bytes);
// Closes what was open; fails the test when it goes wrong.
void store_rig_open(struct store_rig *rig, const struct queue_ops *queue_ops);
void store_rig_fini(struct store_rig *rig); // closes the store too
fathom_status store_rig_write(struct store_rig *rig, uint64_t seed, uint32_t n_pages,
                              struct store_extent *extent);
// Writes and checks that it went well.
struct store_extent store_rig_put(struct store_rig *rig, uint64_t seed, uint32_t n_pages);
// Reads all of the extent to the start of the buffer.
fathom_status store_rig_read(struct store_rig *rig, struct store_extent extent);
// Reads all of the extent and checks that it is what store_rig_put wrote.
void store_rig_check(struct store_rig *rig, uint64_t seed, struct store_extent extent);
// Checks n_pages of what was read.
void store_rig_compare(const char *at, uint64_t seed, uint32_t page, uint32_t n_pages);
uint64_t store_rig_bytes_held(const struct store_rig *rig);

#endif
