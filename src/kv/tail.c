// The hot rows of a sequence: strips by layer and KV head in the device's memory.

#include "src/base/status.h"
#include "src/kv/engine.h"

static uint32_t n_strips(const fathom_engine *engine)
{
    return engine->params.n_layers * engine->params.n_kv_heads;
}

fathom_status tail_open(fathom_engine *engine, struct slot *slot)
{
    fathom_device *device = engine->device;
    void *dev;
    if (slot->dev_rows == NULL) {
        FATHOM_TRY(device->ops->alloc(device, engine->slot_bytes, "keys and values", &dev));
        slot->dev_rows = dev;
    }
    if (slot->dev_cos_sin == NULL && engine->frequencies != NULL) {
        FATHOM_TRY(device->ops->alloc(device, engine->table_bytes, "rope table", &dev));
        slot->dev_cos_sin = dev;
    }
    return FATHOM_OK;
}

void tail_close(fathom_engine *engine, struct slot *slot)
{
    engine->device->ops->release(engine->device, slot->dev_rows, engine->slot_bytes);
    engine->device->ops->release(engine->device, slot->dev_cos_sin, engine->table_bytes);
}

uint8_t *tail_keys(const fathom_engine *engine, const struct slot *slot, uint32_t head)
{
    return slot->dev_rows + (size_t)head * engine->n_tail_max * engine->k_row_bytes;
}

uint8_t *tail_values(const fathom_engine *engine, const struct slot *slot, uint32_t head)
{
    return tail_keys(engine, slot, n_strips(engine)) +
           (size_t)head * engine->n_tail_max * engine->v_row_bytes;
}

// What is left behind in a strip that was once long is given back.
static void slide_strip(fathom_engine *engine, uint8_t *strip, size_t row_bytes, uint32_t to,
                        uint32_t from, uint32_t n)
{
    const struct device_ops *ops = engine->device->ops;
    ops->move(engine->device, strip + to * row_bytes, strip + from * row_bytes, n * row_bytes);
    ops->discard(engine->device, strip + (to + n) * row_bytes, (from - to) * row_bytes);
}

void tail_slide(fathom_engine *engine, struct slot *slot, uint32_t from)
{
    const uint32_t n = slot->n_tokens - from;
    const uint32_t to = engine->params.kv.n_sink, row = tail_row(engine, slot, from);
    for (uint32_t head = 0; head < n_strips(engine); head++) {
        slide_strip(engine, tail_keys(engine, slot, head), engine->k_row_bytes, to, row, n);
        slide_strip(engine, tail_values(engine, slot, head), engine->v_row_bytes, to, row, n);
    }
}
