// See store_wrap.h.

#include "tests/kv/store_wrap.h"

#include "src/base/status.h"
#include "src/kv/wire.h"

struct store_wrap store_wrap;

const struct store_ops *__wrap_wire_store_ops(void);

static fathom_status open_store(const struct store_params *params, struct store **store)
{
    FATHOM_TRY(disk_store_open(params, store_wrap.queue_ops, store));
    store_wrap.opened = *store;
    return FATHOM_OK;
}

const struct store_ops *__wrap_wire_store_ops(void)
{
    static struct store_ops ops;
    ops = store_ops;
    ops.open = open_store;
    return &ops;
}
