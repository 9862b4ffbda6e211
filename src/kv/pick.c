// Picks of all KV heads, and the reads that these ask for: while the disk brings what the first
// heads picked, the next ones are searched.
//
// Where heads share out evenly, or are many, a thread searches a head by itself: no thread waits
// for the others between a search's steps. The caller's, which alone may touch the store, begins
// the reads between two heads of its own; in the order of heads, so that nothing depends on which
// was ready first.

#include "src/kv/sealed.h"

#include "src/base/status.h"

struct picking {
    fathom_engine *engine;
    const struct slot *slot;
    uint32_t layer;
    uint32_t n_begun; // heads whose reads are, by the caller's thread
    fathom_status status;
};

// As far as heads are picked.
static void begin_reads(struct picking *p)
{
    fathom_engine *engine = p->engine;
    while (p->status == FATHOM_OK && p->n_begun < engine->params.n_kv_heads &&
           atomic_load_explicit(&engine->picked[p->n_begun], memory_order_acquire)) // [read]
        p->status = sealed_begin_reads(engine, p->slot, p->layer, p->n_begun++);
}

static void pick_range(void *arg, size_t begin, size_t end, uint32_t thread)
{
    struct picking *p = arg;
    fathom_engine *engine = p->engine;
    for (size_t h = begin; h < end; h++) {
        engine->selector_ops->pick_head(engine->search, (uint32_t)h, thread, engine->budgets[h],
                                        &engine->selections[h]);
        atomic_store_explicit(&engine->picked[h], true, memory_order_release); // seen at [read]
        if (thread == 0) begin_reads(p);
    }
}

fathom_status pick_and_read(fathom_engine *engine, const struct slot *slot, uint32_t layer)
{
    const uint32_t n_heads = engine->params.n_kv_heads;
    const uint32_t n_threads = pool_count(engine->device->pool);
    const bool by_heads = n_heads % n_threads == 0 || n_heads >= 2 * n_threads;
    struct picking picking = {.engine = engine, .slot = slot, .layer = layer};
    fetch_reset(&engine->fetch);
    for (uint32_t h = 0; h < n_heads; h++)
        atomic_store_explicit(&engine->picked[h], !by_heads, memory_order_relaxed);
    if (by_heads)
        pool_for(engine->device->pool, n_heads, 1, pick_range, &picking);
    else
        engine->selector_ops->pick(engine->search, engine->budgets, engine->selections);
    begin_reads(&picking);
    return picking.status;
}
