// Requests through io_uring: one system call starts and finishes many.
//
// Whoever sends a request is whom the kernel serves its completion through, and a ring that
// promised IORING_SETUP_SINGLE_ISSUER (which DEFER_TASKRUN needs) takes requests of one thread for
// ever. A store is used by one thread at a time, not always the same one, so neither is asked for.
//
// A request that the kernel refuses to take (io_uring_submit fails, a rare thing) stays in the
// ring, where it would start later and behind our back. It is turned into one that does nothing,
// whose completion is skipped, and reported as failed.

#include "io/queue.h"

#include "src/base/clock.h"
#include "src/base/mem.h"
#include "src/base/status.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>

// The kernel pins at most 1 GiB as one piece; a request across two is an ordinary one.
static const size_t piece_bytes_max = (size_t)1 << 30;

enum { PIECES_MAX = 1024, NAP_NS = 100 * 1000 };

// The completion of a request that was taken back.
static const uint64_t taken_back = UINT64_MAX;

struct queue {
    struct io_uring ring;
    bool has_ring;
    int fd;
    bool has_fixed_file; // the descriptor is number 0 of the ring's own
    char *buffer;
    size_t pinned_bytes; // of the buffer, from its start, in pieces of piece_bytes_max; 0: none
    uint32_t depth;
    uint32_t n_flying;                // taken by the kernel, not yet collected
    uint32_t n_unsent;                // in the ring, not yet taken by the kernel
    uint32_t n_failed;                // refused, not yet collected
    struct io_uring_sqe **unsent;     // [depth] in the order of the ring
    struct queue_done *failed;        // [depth]
    struct io_uring_cqe **collecting; // [depth]
};

// IORING_SETUP_COOP_TASKRUN came with 5.19: no interrupt of this thread for each completion.
static int open_ring(struct queue *queue)
{
    struct io_uring_params params = {.flags =
                                         IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG};
    int error = io_uring_queue_init_params(queue->depth, &queue->ring, &params);
    if (error == -EINVAL) {
        params = (struct io_uring_params){0};
        error = io_uring_queue_init_params(queue->depth, &queue->ring, &params);
    }
    queue->has_ring = error == 0;
    return error;
}

// The limit on locked memory may forbid pinning, and then requests are ordinary ones.
static void pin(struct queue *queue, size_t bytes)
{
    struct iovec pieces[PIECES_MAX];
    size_t n_pieces = 0;
    size_t pinned_bytes = 0;
    queue->has_fixed_file = io_uring_register_files(&queue->ring, &queue->fd, 1) == 0;
    while (pinned_bytes < bytes && n_pieces < PIECES_MAX) {
        size_t left_bytes = bytes - pinned_bytes;
        size_t piece_bytes = left_bytes < piece_bytes_max ? left_bytes : piece_bytes_max;
        pieces[n_pieces++] = (struct iovec){queue->buffer + pinned_bytes, piece_bytes};
        pinned_bytes += piece_bytes;
    }
    if (n_pieces > 0 && io_uring_register_buffers(&queue->ring, pieces, (unsigned)n_pieces) == 0)
        queue->pinned_bytes = pinned_bytes;
}

static void uring_close(struct queue **queue)
{
    if (*queue == NULL) return;
    struct queue *closing = *queue;
    if (closing->has_ring) io_uring_queue_exit(&closing->ring);
    mem_free(closing->unsent);
    mem_free(closing->failed);
    mem_free(closing->collecting);
    mem_free(closing);
    *queue = NULL;
}

static fathom_status uring_open(const struct queue_params *params, struct queue **queue)
{
    struct queue *opened = NULL;
    fathom_status status = FATHOM_OK;
    const char *what = "queue of the disk tier";
    FATHOM_TRY(mem_new(1, sizeof *opened, what, &opened));
    opened->fd = params->fd;
    opened->depth = params->depth;
    opened->buffer = params->buffer;
    FATHOM_CHECK(mem_new(params->depth, sizeof(struct io_uring_sqe *), what, &opened->unsent), out);
    FATHOM_CHECK(mem_new(params->depth, sizeof *opened->failed, what, &opened->failed), out);
    FATHOM_CHECK(mem_new(params->depth, sizeof(struct io_uring_cqe *), what, &opened->collecting),
                 out);
    int error = open_ring(opened);
    if (error != 0) {
        status = status_set(FATHOM_EUNSUPPORTED, "%s", strerror(-error));
        goto out;
    }
    // Without it (before 5.11) a wait with a deadline would need requests of its own.
    if ((opened->ring.features & IORING_FEAT_EXT_ARG) == 0) {
        status = status_set(FATHOM_EUNSUPPORTED, "this kernel's is too old");
        goto out;
    }
    pin(opened, params->buffer_bytes);
    *queue = opened;
    return FATHOM_OK;
out:
    uring_close(&opened);
    return status;
}

static void fail(struct queue *queue, uint32_t slot, int error)
{
    assert(queue->n_failed < queue->depth);
    queue->failed[queue->n_failed++] = (struct queue_done){.slot = slot, .result = error};
}

// The piece of the buffer that all of the range lies in, or -1.
static int find_piece(const struct queue *queue, const void *at, size_t bytes)
{
    uintptr_t begin = (uintptr_t)at - (uintptr_t)queue->buffer; // huge when `at` is below
    if (begin >= queue->pinned_bytes || bytes > queue->pinned_bytes - begin) return -1;
    size_t piece = begin / piece_bytes_max;
    return (begin + bytes - 1) / piece_bytes_max == piece ? (int)piece : -1;
}

static void take_back(struct queue *queue, int error)
{
    for (uint32_t i = 0; i < queue->n_unsent; i++) {
        struct io_uring_sqe *sqe = queue->unsent[i];
        fail(queue, (uint32_t)sqe->user_data, error);
        io_uring_prep_nop(sqe);
        io_uring_sqe_set_data64(sqe, taken_back);
    }
    queue->n_unsent = 0;
}

// What the kernel is short of may come back with the next completion; if none is due, it is an
// error.
static void send_pushed(struct queue *queue)
{
    if (io_uring_sq_ready(&queue->ring) == 0) return;
    int n_sent = io_uring_submit(&queue->ring);
    if (n_sent > 0) {
        // The first of them may be requests that were taken back earlier.
        uint32_t n_left = io_uring_sq_ready(&queue->ring);
        uint32_t n_taken = queue->n_unsent - (n_left < queue->n_unsent ? n_left : queue->n_unsent);
        queue->n_unsent -= n_taken;
        queue->n_flying += n_taken;
        memmove(queue->unsent, queue->unsent + n_taken, queue->n_unsent * sizeof queue->unsent[0]);
        return;
    }
    const bool passes = n_sent == 0 || n_sent == -EAGAIN || n_sent == -EBUSY;
    if (n_sent == -EINTR || (passes && queue->n_flying > 0)) return;
    take_back(queue, n_sent == 0 ? -EAGAIN : n_sent);
}

static void uring_push(struct queue *queue, const struct queue_op *op)
{
    // Full it is of requests that were taken back.
    if (io_uring_sq_space_left(&queue->ring) == 0) send_pushed(queue);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&queue->ring);
    if (sqe == NULL) {
        fail(queue, op->slot, -EBUSY);
        return;
    }
    const int fd = queue->has_fixed_file ? 0 : queue->fd;
    const int piece = op->to != NULL ? find_piece(queue, op->to, op->bytes) : -1;
    if (piece >= 0)
        io_uring_prep_read_fixed(sqe, fd, op->to, op->bytes, op->offset, piece);
    else if (op->to != NULL)
        io_uring_prep_read(sqe, fd, op->to, op->bytes, op->offset);
    else
        io_uring_prep_write(sqe, fd, op->from, op->bytes, op->offset);
    if (queue->has_fixed_file) io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data64(sqe, op->slot);
    queue->unsent[queue->n_unsent++] = sqe;
}

static size_t collect(struct queue *queue, struct queue_done *done)
{
    size_t n_done = queue->n_failed;
    memcpy(done, queue->failed, queue->n_failed * sizeof done[0]);
    queue->n_failed = 0;
    unsigned n = io_uring_peek_batch_cqe(&queue->ring, queue->collecting, queue->depth);
    for (unsigned i = 0; i < n; i++) {
        const struct io_uring_cqe *cqe = queue->collecting[i];
        if (cqe->user_data == taken_back) continue;
        done[n_done++] = (struct queue_done){(uint32_t)cqe->user_data, cqe->res};
        queue->n_flying--;
    }
    io_uring_cq_advance(&queue->ring, n);
    return n_done;
}

static void sleep_until(struct queue *queue, size_t n_min, int64_t deadline_ns, int64_t now_ns)
{
    struct io_uring_cqe *first = NULL;
    int64_t left_ns = deadline_ns - now_ns;
    struct __kernel_timespec timeout = {left_ns / 1000000000, left_ns % 1000000000};
    struct __kernel_timespec *limit = deadline_ns == INT64_MAX ? NULL : &timeout;
    int error = io_uring_wait_cqes(&queue->ring, &first, (unsigned)n_min, limit, NULL);
    if (error == 0 || error == -ETIME || error == -EINTR) return;
    // No way to wait: look again in a while. The completions come all the same.
    (void)nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
}

static size_t uring_reap(struct queue *queue, size_t n_min, int64_t deadline_ns,
                         struct queue_done *done)
{
    size_t n_done = 0;
    for (;;) {
        send_pushed(queue);
        n_done += collect(queue, done + n_done);
        if (n_done >= n_min) return n_done;
        int64_t now_ns = (int64_t)clock_ns();
        if (now_ns >= deadline_ns) return n_done;
        size_t n_missing = n_min - n_done;
        if (queue->n_flying == 0) continue;
        sleep_until(queue, n_missing < queue->n_flying ? n_missing : queue->n_flying, deadline_ns,
                    now_ns);
    }
}

static const char *uring_text(const struct queue *queue)
{
    return queue->pinned_bytes > 0 ? "io_uring, pinned buffer" : "io_uring";
}

const struct queue_ops queue_uring = {
    .open = uring_open,
    .close = uring_close,
    .push = uring_push,
    .reap = uring_reap,
    .text = uring_text,
};
