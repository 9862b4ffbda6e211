// Stands in for queue_uring.c in a build without liburing. It never opens, so it has nothing else.

#include "io/queue.h"
#include "src/base/status.h"

static fathom_status refuse(const struct queue_params *params, struct queue **queue)
{
    (void)params;
    (void)queue;
    return status_set(FATHOM_EUNSUPPORTED, "this build has no liburing");
}

const struct queue_ops queue_uring = {.open = refuse};
