// The wrapped functions, and which of their calls fails.

#include "tests/io/fault.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "io/store_file.h"
#include "src/base/mem.h"
#include "src/base/status.h"

static _Atomic(size_t) n_left = SIZE_MAX; // calls that succeed before one fails
static _Atomic(bool) met;
static int error_of_fault;

fathom_status __real_mem_new(size_t count, size_t item_bytes, const char *what, void *out);
fathom_status __wrap_mem_new(size_t count, size_t item_bytes, const char *what, void *out);
fathom_status __real_mem_string(const char *text, size_t bytes, char **out);
fathom_status __wrap_mem_string(const char *text, size_t bytes, char **out);
fathom_status __real_mem_reserve(size_t bytes, enum mem_pages pages, const char *what, void **out);
fathom_status __wrap_mem_reserve(size_t bytes, enum mem_pages pages, const char *what, void **out);
fathom_status __real_store_file_create(const char *dir, int *fd);
fathom_status __wrap_store_file_create(const char *dir, int *fd);
int __real_store_file_bypass_cache(int fd);
int __wrap_store_file_bypass_cache(int fd);
int __real_store_file_grow(int fd, uint64_t begin_bytes, uint64_t end_bytes);
int __wrap_store_file_grow(int fd, uint64_t begin_bytes, uint64_t end_bytes);
int32_t __real_store_file_move(int fd, const struct queue_op *op);
int32_t __wrap_store_file_move(int fd, const struct queue_op *op);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *arg);

void fault_begin(size_t n_good, int error)
{
    error_of_fault = error;
    atomic_store(&met, false);
    atomic_store(&n_left, n_good);
}

bool fault_met(void)
{
    return atomic_load(&met);
}

void fault_end(void)
{
    atomic_store(&n_left, SIZE_MAX);
}

bool fault_due(void)
{
    if (atomic_load(&n_left) == SIZE_MAX || atomic_fetch_sub(&n_left, 1) != 0) return false;
    atomic_store(&met, true);
    return true;
}

int fault_error(void)
{
    return error_of_fault;
}

fathom_status __wrap_mem_new(size_t count, size_t item_bytes, const char *what, void *out)
{
    if (fault_due()) return status_set(FATHOM_ENOMEM, "%s: made to fail", what);
    return __real_mem_new(count, item_bytes, what, out);
}

fathom_status __wrap_mem_string(const char *text, size_t bytes, char **out)
{
    if (fault_due()) return status_set(FATHOM_ENOMEM, "made to fail");
    return __real_mem_string(text, bytes, out);
}

fathom_status __wrap_mem_reserve(size_t bytes, enum mem_pages pages, const char *what, void **out)
{
    if (fault_due()) return status_set(FATHOM_ENOMEM, "%s: made to fail", what);
    return __real_mem_reserve(bytes, pages, what, out);
}

fathom_status __wrap_store_file_create(const char *dir, int *fd)
{
    if (fault_due()) return status_set(FATHOM_EIO, "%s: made to fail", dir);
    return __real_store_file_create(dir, fd);
}

int __wrap_store_file_bypass_cache(int fd)
{
    return fault_due() ? fault_error() : __real_store_file_bypass_cache(fd);
}

int __wrap_store_file_grow(int fd, uint64_t begin_bytes, uint64_t end_bytes)
{
    return fault_due() ? fault_error() : __real_store_file_grow(fd, begin_bytes, end_bytes);
}

int32_t __wrap_store_file_move(int fd, const struct queue_op *op)
{
    return fault_due() ? -fault_error() : __real_store_file_move(fd, op);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *arg)
{
    return fault_due() ? fault_error() : __real_pthread_create(thread, attr, fn, arg);
}
