// The system calls on the disk tier's file.
//
// The file holds what people wrote, so nobody else may open it, and it has no name: it is gone when
// the process ends, in whatever way.

#include "io/store_file.h"

#include "src/base/status.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

int store_file_create_named(const char *dir)
{
    char path[4096];
    int length = snprintf(path, sizeof path, "%s/fathom-kv-XXXXXX", dir);
    if (length < 0 || (size_t)length >= sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0) (void)unlink(path);
    return fd;
}

fathom_status store_file_create(const char *dir, int *fd)
{
    int created = open(dir, O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
    // EISDIR: from kernels and file systems that do not know the flag.
    if (created < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL))
        created = store_file_create_named(dir);
    if (created < 0)
        return status_set(FATHOM_EIO,
                          "disk tier: no file can be made in %s: %s; name another folder with "
                          "--kv-disk-path",
                          dir, strerror(errno));
    *fd = created;
    return FATHOM_OK;
}

int store_file_bypass_cache(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 || fcntl(fd, F_SETFL, flags | O_DIRECT) != 0 ? errno : 0;
}

uint64_t store_file_free_bytes(int fd)
{
    struct statvfs info;
    return fstatvfs(fd, &info) == 0 ? (uint64_t)info.f_bavail * info.f_frsize : UINT64_MAX;
}

int store_file_grow(int fd, uint64_t begin_bytes, uint64_t end_bytes)
{
    for (;;) {
        if (fallocate(fd, 0, (off_t)begin_bytes, (off_t)(end_bytes - begin_bytes)) == 0) return 0;
        if (errno == EOPNOTSUPP) return ftruncate(fd, (off_t)end_bytes) == 0 ? 0 : errno;
        if (errno != EINTR) return errno;
    }
}

int32_t store_file_move(int fd, const struct queue_op *op)
{
    for (;;) {
        ssize_t n = op->to != NULL ? pread(fd, op->to, op->bytes, (off_t)op->offset)
                                   : pwrite(fd, op->from, op->bytes, (off_t)op->offset);
        if (n >= 0) return (int32_t)n;
        if (errno != EINTR) return -errno;
    }
}

void store_file_close(int fd)
{
    (void)close(fd);
}
