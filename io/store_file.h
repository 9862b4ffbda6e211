// The disk tier's file: where system calls are made and errno is read.

#ifndef FATHOM_IO_STORE_FILE_H
#define FATHOM_IO_STORE_FILE_H

#include "fathom/types.h"
#include "io/queue.h"

// Makes an empty file without a name in the folder; only its descriptor holds it. EIO.
FATHOM_MUST_USE fathom_status store_file_create(const char *dir, int *fd);
// The same where files cannot be made without a name: it has one for a moment. -1 and errno.
FATHOM_MUST_USE int store_file_create_named(const char *dir);
// Lets reads and writes pass by the page cache; 0, or errno where the file system cannot.
FATHOM_MUST_USE int store_file_bypass_cache(int fd);
// Bytes that the file's disk has left for it; UINT64_MAX: it does not say.
uint64_t store_file_free_bytes(int fd);
// Takes the disk's blocks for the file up to end_bytes; 0 or errno. Where the file system cannot,
// the file just becomes longer, and a write may find the disk full.
FATHOM_MUST_USE int store_file_grow(int fd, uint64_t begin_bytes, uint64_t end_bytes);
// One read or write: bytes moved, or -errno. Any thread.
int32_t store_file_move(int fd, const struct queue_op *op);
void store_file_close(int fd);

#endif
