// See queue_fake.h.

#include "tests/io/queue_fake.h"

#include <time.h>

#include "src/base/clock.h"
#include "src/iface/store.h"

struct queue_fake queue_fake;

enum { SLOTS = 4096 };

// The result that a request's slot will be given instead of its own; 0: its own.
static int32_t results[SLOTS];

static fathom_status fake_open(const struct queue_params *params, struct queue **queue)
{
    return queue_pread.open(params, queue);
}

static void fake_close(struct queue **queue)
{
    queue_pread.close(queue);
}

static void fake_push(struct queue *queue, const struct queue_op *op)
{
    struct queue_op real = *op;
    const uint32_t n_pages = op->bytes / STORE_PAGE_BYTES;
    const bool fails = queue_fake.n_pushed == queue_fake.n_good;
    results[op->slot] = fails ? queue_fake.result : 0;
    if (queue_fake.halves && n_pages > 1 && results[op->slot] == 0) {
        real.bytes = n_pages / 2 * STORE_PAGE_BYTES;
        if (queue_fake.n_pushed % 3 == 0 && n_pages > 3)
            results[op->slot] = (int32_t)real.bytes - STORE_PAGE_BYTES / 2;
    }
    queue_fake.n_pushed++;
    queue_pread.push(queue, &real);
}

static size_t fake_reap(struct queue *queue, size_t n_min, int64_t deadline_ns,
                        struct queue_done *done)
{
    if (queue_fake.holds && deadline_ns != INT64_MAX) {
        while ((int64_t)clock_ns() < deadline_ns)
            (void)nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
        return 0;
    }
    size_t n = queue_pread.reap(queue, n_min, deadline_ns, done);
    for (size_t i = 0; i < n; i++)
        if (results[done[i].slot] != 0) done[i].result = results[done[i].slot];
    return n;
}

static const char *fake_text(const struct queue *queue)
{
    (void)queue;
    return "fake";
}

const struct queue_ops queue_fake_ops = {
    .open = fake_open,
    .close = fake_close,
    .push = fake_push,
    .reap = fake_reap,
    .text = fake_text,
};
