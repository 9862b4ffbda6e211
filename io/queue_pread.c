// Requests through a team of threads, each in one pread or pwrite at a time: for machines and
// containers without io_uring.
//
// `lock` guards all that changes. The caller fills `waiting`, workers move requests from it to
// `done`, the caller empties that; both have room for all that can be in flight.

#include "io/queue.h"

#include "io/store_file.h"
#include "src/base/mem.h"
#include "src/base/status.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

// Enough to keep a disk busy; more would only take turns on the cores.
enum { THREADS_MAX = 32 };

struct queue {
    int fd;
    uint32_t depth;
    uint32_t n_threads; // that run
    pthread_t threads[THREADS_MAX];
    char text[32];
    bool has_lock; // and both conditions
    pthread_mutex_t lock;
    pthread_cond_t to_do;     // a request waits, or the end is near
    pthread_cond_t n_reached; // n_done has reached n_wanted
    bool closing;
    struct queue_op *waiting; // [depth] a ring
    uint32_t first_waiting;
    uint32_t n_waiting;
    struct queue_done *done; // [depth]
    uint32_t n_done;
    uint32_t n_wanted; // by the sleeping caller; 0: it does not sleep
};

static void *run_requests(void *arg)
{
    struct queue *queue = arg;
    pthread_mutex_lock(&queue->lock);
    for (;;) {
        while (queue->n_waiting == 0 && !queue->closing)
            pthread_cond_wait(&queue->to_do, &queue->lock);
        if (queue->n_waiting == 0) break;
        struct queue_op op = queue->waiting[queue->first_waiting];
        queue->first_waiting = (queue->first_waiting + 1) % queue->depth;
        queue->n_waiting--;
        pthread_mutex_unlock(&queue->lock);
        struct queue_done done = {.slot = op.slot, .result = store_file_move(queue->fd, &op)};
        pthread_mutex_lock(&queue->lock);
        queue->done[queue->n_done++] = done;
        if (queue->n_done == queue->n_wanted) pthread_cond_signal(&queue->n_reached);
    }
    pthread_mutex_unlock(&queue->lock);
    return NULL;
}

// Deadlines are of the monotonic clock. What fails in here is memory.
static int open_lock(struct queue *queue)
{
    pthread_condattr_t monotonic;
    int error = pthread_condattr_init(&monotonic);
    if (error != 0) return error;
    error = pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    if (error == 0) error = pthread_cond_init(&queue->n_reached, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (error != 0) return error;
    error = pthread_cond_init(&queue->to_do, NULL);
    if (error == 0) {
        error = pthread_mutex_init(&queue->lock, NULL);
        if (error != 0) pthread_cond_destroy(&queue->to_do);
    }
    if (error != 0) pthread_cond_destroy(&queue->n_reached);
    queue->has_lock = error == 0;
    return error;
}

// Signals belong to the program's own threads: workers start with all of them blocked. Fewer
// workers than wished for will do.
static int start_threads(struct queue *queue)
{
    sigset_t all;
    sigset_t old;
    int error = 0;
    const uint32_t n_threads = queue->depth < THREADS_MAX ? queue->depth : THREADS_MAX;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (queue->n_threads < n_threads && error == 0) {
        error = pthread_create(&queue->threads[queue->n_threads], NULL, run_requests, queue);
        if (error == 0) queue->n_threads++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return queue->n_threads > 0 ? 0 : error;
}

static void pread_close(struct queue **queue)
{
    if (*queue == NULL) return;
    struct queue *closing = *queue;
    if (closing->has_lock) {
        pthread_mutex_lock(&closing->lock);
        closing->closing = true;
        pthread_cond_broadcast(&closing->to_do);
        pthread_mutex_unlock(&closing->lock);
        for (uint32_t i = 0; i < closing->n_threads; i++)
            pthread_join(closing->threads[i], NULL);
        pthread_mutex_destroy(&closing->lock);
        pthread_cond_destroy(&closing->to_do);
        pthread_cond_destroy(&closing->n_reached);
    }
    mem_free(closing->waiting);
    mem_free(closing->done);
    mem_free(closing);
    *queue = NULL;
}

static fathom_status pread_open(const struct queue_params *params, struct queue **queue)
{
    struct queue *opened = NULL;
    fathom_status status = FATHOM_OK;
    const char *what = "queue of the disk tier";
    FATHOM_TRY(mem_new(1, sizeof *opened, what, &opened));
    opened->fd = params->fd;
    opened->depth = params->depth;
    FATHOM_CHECK(mem_new(params->depth, sizeof *opened->waiting, what, &opened->waiting), out);
    FATHOM_CHECK(mem_new(params->depth, sizeof *opened->done, what, &opened->done), out);
    int error = open_lock(opened);
    if (error == 0) error = start_threads(opened);
    if (error != 0) {
        status = status_set(FATHOM_ENOMEM, "%s: no thread starts: %s", what, strerror(error));
        goto out;
    }
    (void)snprintf(opened->text, sizeof opened->text, "%u threads", opened->n_threads);
    *queue = opened;
    return FATHOM_OK;
out:
    pread_close(&opened);
    return status;
}

static void pread_push(struct queue *queue, const struct queue_op *op)
{
    pthread_mutex_lock(&queue->lock);
    assert(queue->n_waiting < queue->depth);
    queue->waiting[(queue->first_waiting + queue->n_waiting) % queue->depth] = *op;
    queue->n_waiting++;
    pthread_cond_signal(&queue->to_do);
    pthread_mutex_unlock(&queue->lock);
}

// Until n_min are done or the deadline passes.
static void sleep_for(struct queue *queue, uint32_t n_min, int64_t deadline_ns)
{
    const struct timespec deadline = {deadline_ns / 1000000000, deadline_ns % 1000000000};
    int error = 0;
    queue->n_wanted = n_min;
    while (queue->n_done < n_min && error == 0) {
        if (deadline_ns == INT64_MAX)
            error = pthread_cond_wait(&queue->n_reached, &queue->lock);
        else
            error = pthread_cond_timedwait(&queue->n_reached, &queue->lock, &deadline);
    }
    queue->n_wanted = 0;
}

static size_t pread_reap(struct queue *queue, size_t n_min, int64_t deadline_ns,
                         struct queue_done *done)
{
    pthread_mutex_lock(&queue->lock);
    if (queue->n_done < n_min && deadline_ns > 0) sleep_for(queue, (uint32_t)n_min, deadline_ns);
    size_t n_done = queue->n_done;
    memcpy(done, queue->done, n_done * sizeof done[0]);
    queue->n_done = 0;
    pthread_mutex_unlock(&queue->lock);
    return n_done;
}

static const char *pread_text(const struct queue *queue)
{
    return queue->text;
}

const struct queue_ops queue_pread = {
    .open = pread_open,
    .close = pread_close,
    .push = pread_push,
    .reap = pread_reap,
    .text = pread_text,
};
