// The calls of liburing that make system calls, wrapped. Not in builds without liburing.

#include "tests/io/fault.h"

#include <liburing.h>

int __real_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
                                      struct io_uring_params *params);
int __wrap_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
                                      struct io_uring_params *params);
int __real_io_uring_register_files(struct io_uring *ring, const int *files, unsigned n);
int __wrap_io_uring_register_files(struct io_uring *ring, const int *files, unsigned n);
int __real_io_uring_register_buffers(struct io_uring *ring, const struct iovec *pieces, unsigned n);
int __wrap_io_uring_register_buffers(struct io_uring *ring, const struct iovec *pieces, unsigned n);
int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);
int __real_io_uring_wait_cqes(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned n,
                              struct __kernel_timespec *timeout, sigset_t *mask);
int __wrap_io_uring_wait_cqes(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned n,
                              struct __kernel_timespec *timeout, sigset_t *mask);

int __wrap_io_uring_queue_init_params(unsigned entries, struct io_uring *ring,
                                      struct io_uring_params *params)
{
    return fault_due() ? -fault_error() : __real_io_uring_queue_init_params(entries, ring, params);
}

int __wrap_io_uring_register_files(struct io_uring *ring, const int *files, unsigned n)
{
    return fault_due() ? -fault_error() : __real_io_uring_register_files(ring, files, n);
}

int __wrap_io_uring_register_buffers(struct io_uring *ring, const struct iovec *pieces, unsigned n)
{
    return fault_due() ? -fault_error() : __real_io_uring_register_buffers(ring, pieces, n);
}

int __wrap_io_uring_submit(struct io_uring *ring)
{
    return fault_due() ? -fault_error() : __real_io_uring_submit(ring);
}

int __wrap_io_uring_wait_cqes(struct io_uring *ring, struct io_uring_cqe **cqe, unsigned n,
                              struct __kernel_timespec *timeout, sigset_t *mask)
{
    return fault_due() ? -fault_error() : __real_io_uring_wait_cqes(ring, cqe, n, timeout, mask);
}
