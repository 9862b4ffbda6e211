// Runs a grid: its blocks one after another, the threads of a block as fibers in an order that the
// mode says. A thread runs until it waits or ends, so what no barrier orders happens in that order.

#include "tests/emu/emu_block.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/rng.h"
#include "tests/emu/emu_private.h"
#include "tests/emu/emu_sanitizer.h"

// Two fills, so that what reads memory that nobody wrote differs between the runs of a swap. The
// first reads as NaN and as -1.
enum { POISON = 0xff, POISON_SWAPPED = 0x7b };

struct emu_block emu_block;
const struct emu_ids *emu_ids;
static struct rng rng;

static bool same_text(const char *a, const char *b)
{
    return a == b || strcmp(a, b) == 0; // mostly the very same
}

bool emu_place_equal(const struct emu_place *a, const struct emu_place *b)
{
    return a->line == b->line && same_text(a->what, b->what) && same_text(a->file, b->file);
}

// ---- Waiting ------------------------------------------------------------------------------------

static bool same_fate(const struct emu_thread *a, const struct emu_thread *b)
{
    return a->state == b->state && (a->state != EMU_WAITING ||
                                    (a->mask == b->mask && emu_place_equal(&a->place, &b->place)));
}

void emu_block_stuck(const char *why)
{
    enum { LINES_MAX = 12 };
    const struct emu_block *block = &emu_block;
    const uint3 at = block->threads[0]->ids.block;
    fprintf(stderr, "emu: error: %s, in kernel %s, block (%u, %u, %u) of %u threads:\n", why,
            block->launch->name, at.x, at.y, at.z, block->n_threads);
    for (unsigned i = 0, end, n = 0; i < block->n_threads && n < LINES_MAX; i = end, n++) {
        const struct emu_thread *thread = block->threads[i];
        for (end = i; end < block->n_threads && same_fate(block->threads[end], thread);)
            end++;
        fprintf(stderr, "    threads %u to %u ", i, end - 1);
        if (thread->state == EMU_WAITING)
            fprintf(stderr, "wait at %s, %s:%d, mask %08x\n", thread->place.what,
                    thread->place.file, thread->place.line, thread->mask);
        else
            fprintf(stderr, "%s\n", thread->state == EMU_GONE ? "have ended" : "can run");
    }
    abort();
}

void emu_block_wait(void)
{
    struct emu_thread *thread = emu_block.running;
    emu_fiber_leave(&thread->fiber);
}

void emu_block_wake(unsigned index)
{
    struct emu_block *block = &emu_block;
    block->threads[index]->state = EMU_READY;
    block->ready[index / EMU_WARP] |= 1u << index % EMU_WARP;
    block->n_ready++;
}

static void finish_barrier(const struct emu_place *place)
{
    struct emu_block *block = &emu_block;
    unsigned count = 0;
    if (block->n_gone > 0) emu_block_stuck("a barrier after threads of the block have ended");
    for (unsigned i = 0; i < block->n_threads; i++) {
        if (!emu_place_equal(&block->threads[i]->place, place))
            emu_block_stuck("the threads of a block at different barriers");
        count += block->threads[i]->predicate;
        emu_acquire(block->threads[i]->sync);
    }
    block->n_at_barrier = 0;
    for (unsigned i = 0; i < block->n_threads; i++) {
        block->threads[i]->count = count;
        emu_release(block->threads[i]->sync);
        emu_block_wake(i);
    }
}

unsigned emu_barrier(const struct emu_place *place, bool predicate)
{
    struct emu_block *block = &emu_block;
    struct emu_thread *thread = block->running;
    thread->state = EMU_WAITING;
    thread->place = *place;
    thread->mask = 0;
    thread->predicate = predicate;
    emu_release(thread->sync);
    if (++block->n_at_barrier + block->n_gone == block->n_threads) finish_barrier(place);
    emu_block_wait();
    emu_acquire(thread->sync);
    return thread->count;
}

// ---- Fences and atomics, for ThreadSanitizer ----------------------------------------------------

void emu_fence(void)
{
    struct emu_thread *thread = emu_block.running;
    for (unsigned i = 0; i < thread->n_atomics && i < EMU_ATOMICS_MAX; i++)
        emu_acquire(thread->atomics[i]);
    thread->n_atomics = 0;
    thread->fenced = true;
}

void emu_atomic(const void *at)
{
    struct emu_thread *thread = emu_block.running;
    if (__tsan_release == NULL) return;
    if (thread->fenced) emu_release(at);
    for (unsigned i = 0; i < thread->n_atomics && i < EMU_ATOMICS_MAX; i++)
        if (thread->atomics[i] == at) return;
    thread->atomics[thread->n_atomics++ % EMU_ATOMICS_MAX] = at;
}

// ---- Shared memory ------------------------------------------------------------------------------

// From the heap, so that AddressSanitizer knows its bounds; and aligned to what was asked for and
// no more, as it may be on the device, but to the 8 bytes that AddressSanitizer counts in.
static void *new_shared(const void *tag, size_t bytes, size_t align)
{
    enum { ALIGN_MIN = 8 };
    struct emu_block *block = &emu_block;
    const size_t before = align < ALIGN_MIN ? ALIGN_MIN : align;
    void *allocated = NULL;
    if (block->n_variables == EMU_VARIABLES_MAX)
        emu_fail("kernel %s: more than %d shared variables", block->launch->name,
                 EMU_VARIABLES_MAX);
    emu_ignore_begin();
    if (posix_memalign(&allocated, 2 * before, before + bytes) != 0)
        emu_fail("no memory for %zu bytes of shared memory", bytes);
    char *at = (char *)allocated + before;
    emu_poison(allocated, before);
    memset(at, block->poison, bytes);
    emu_ignore_end();
    block->variables[block->n_variables++] = (struct emu_variable){tag, at, bytes, allocated};
    return at;
}

static void check_shared(void)
{
    enum { STATIC_MAX = 48 * 1024 };
    const struct emu_launch *launch = emu_block.launch;
    if (emu_block.static_bytes > STATIC_MAX)
        emu_fail("kernel %s: %zu bytes of static shared memory: at most %d", launch->name,
                 emu_block.static_bytes, STATIC_MAX);
    if (emu_block.static_bytes + launch->shared_bytes > emu_shared_allowed(launch->kernel))
        emu_fail("kernel %s: %zu bytes of shared memory: it may have %zu", launch->name,
                 emu_block.static_bytes + launch->shared_bytes, emu_shared_allowed(launch->kernel));
}

void *emu_shared(const void *tag, size_t bytes, size_t align)
{
    struct emu_block *block = &emu_block;
    for (unsigned i = 0; i < block->n_variables; i++)
        if (block->variables[i].tag == tag) return block->variables[i].at;
    block->static_bytes += bytes;
    check_shared();
    return new_shared(tag, bytes, align);
}

void *emu_shared_dynamic(void)
{
    return emu_block.variables[0].at;
}

bool emu_block_is_shared(const void *at, size_t bytes)
{
    const struct emu_block *block = &emu_block;
    for (unsigned i = 0; i < block->n_variables; i++) {
        const struct emu_variable *one = &block->variables[i];
        if ((const char *)at >= one->at && (const char *)at + bytes <= one->at + one->bytes)
            return true;
    }
    return false;
}

// ---- Blocks and grids ---------------------------------------------------------------------------

static void thread_main(void)
{
    struct emu_block *block = &emu_block;
    emu_fiber_entered();
    emu_acquire(block->begin_sync);
    block->launch->run(block->launch->call);
    struct emu_thread *thread = block->running;
    if (thread->n_copies > 0)
        emu_block_stuck("a thread ends with asynchronous copies that it did not wait for");
    thread->state = EMU_GONE;
    block->n_gone++;
    emu_release(block->end_sync);
    emu_fiber_finish(&thread->fiber);
}

static void begin_thread(unsigned index, uint3 at)
{
    struct emu_block *block = &emu_block;
    if (block->threads[index] == NULL) block->threads[index] = calloc(1, sizeof(struct emu_thread));
    struct emu_thread *thread = block->threads[index];
    if (thread == NULL) emu_fail("no memory for a thread");
    const uint32_t *blocks = block->launch->blocks;
    thread->ids.thread = (uint3){index, 0, 0};
    thread->ids.block = at;
    thread->ids.block_dim = (dim3){block->n_threads, 1, 1};
    thread->ids.grid_dim = (dim3){blocks[0], blocks[1], blocks[2]};
    thread->index = index;
    thread->n_copies = thread->n_groups = 0;
    thread->n_atomics = 0;
    thread->fenced = false;
    thread->sync = block->end_sync + 1 + index;
    emu_fiber_prepare(&thread->fiber, index, thread_main);
}

// Unfair on purpose: a warp that may run goes as far as it can before another does, because a fair
// order would hide that nothing holds it back.
static unsigned pick_ready(void)
{
    struct emu_block *block = &emu_block;
    const unsigned n_warps = (block->n_threads + EMU_WARP - 1) / EMU_WARP;
    if (block->n_ready == 0) emu_block_stuck("threads wait for each other for ever");
    if (block->order > 1 && (block->ready[block->warp] == 0 || rng_below(&rng, 64) == 0))
        block->warp = rng_below(&rng, n_warps);
    else if (block->order <= 1)
        block->warp = block->order == 0 ? 0 : n_warps - 1;
    while (block->ready[block->warp] == 0)
        block->warp = (block->warp + (block->order == 1 ? n_warps - 1 : 1)) % n_warps;
    const uint32_t lanes = block->ready[block->warp];
    unsigned lane =
        block->order == 1 ? 31 - (unsigned)__builtin_clz(lanes) : (unsigned)__builtin_ctz(lanes);
    if (block->order > 1) {
        const unsigned from = rng_below(&rng, EMU_WARP);
        if (lanes >> from != 0) lane = from + (unsigned)__builtin_ctz(lanes >> from);
    }
    block->ready[block->warp] &= ~(1u << lane);
    block->n_ready--;
    return block->warp * EMU_WARP + lane;
}

static void run_ready(void)
{
    struct emu_block *block = &emu_block;
    struct emu_thread *thread = block->threads[pick_ready()];
    block->running = thread;
    emu_ids = &thread->ids;
    emu_fiber_enter(&thread->fiber);
    block->running = NULL;
    emu_ids = NULL;
}

static void run_block(uint3 at)
{
    struct emu_block *block = &emu_block;
    block->n_gone = block->n_at_barrier = block->n_variables = 0;
    block->static_bytes = 0;
    block->n_ready = block->warp = 0;
    memset(block->ready, 0, sizeof block->ready);
    memset(block->n_in_warp, 0, sizeof block->n_in_warp);
    check_shared();
    new_shared(NULL, block->launch->shared_bytes, 128);
    for (unsigned i = 0; i < block->n_threads; i++)
        begin_thread(i, at);
    for (unsigned i = 0; i < block->n_threads; i++)
        emu_block_wake(i);
    emu_release(block->begin_sync);
    while (block->n_gone < block->n_threads)
        run_ready();
    emu_ignore_begin();
    for (unsigned i = 0; i < block->n_variables; i++)
        free(block->variables[i].allocated);
    emu_ignore_end();
}

static void run_blocks(uint32_t order, bool eager_copies, unsigned char poison)
{
    struct emu_block *block = &emu_block;
    const uint32_t *blocks = block->launch->blocks;
    const size_t n = (size_t)blocks[0] * blocks[1] * blocks[2];
    block->order = order;
    block->eager_copies = eager_copies;
    block->poison = poison;
    rng_init(&rng, order);
    const size_t first = order > 1 ? rng_below(&rng, (uint32_t)n) : 0;
    for (size_t i = 0; i < n; i++) {
        size_t j = (i + first) % n;
        if (order == 1) j = n - 1 - j;
        run_block((uint3){(unsigned)(j % blocks[0]), (unsigned)(j / blocks[0] % blocks[1]),
                          (unsigned)(j / blocks[0] / blocks[1])});
    }
    emu_acquire(block->end_sync);
}

static void run_swapped(const char *name)
{
    emu_memory_save();
    run_blocks(1, true, POISON_SWAPPED);
    emu_memory_swap();
    run_blocks(0, false, POISON);
    emu_memory_compare(name);
}

void emu_grid_run(const struct emu_launch *launch)
{
    const struct emu_mode *mode = emu_mode();
    struct emu_block *block = &emu_block;
    // New ones for each launch: at the old, its threads would see what those of other streams did.
    char *syncs = malloc(2 + launch->n_threads);
    if (syncs == NULL) emu_fail("no memory for the addresses of a launch");
    block->launch = launch;
    block->n_threads = launch->n_threads;
    block->begin_sync = syncs;
    block->end_sync = syncs + 1;
    emu_fiber_begin();
    // What the emulation has for itself, and all memory that it goes over, pinned memory that the
    // host fills meanwhile too, is no business of ThreadSanitizer's; fibers are.
    emu_ignore_begin();
    if (mode->swap)
        run_swapped(launch->name);
    else
        run_blocks(mode->order, mode->eager_copies, POISON);
    emu_ignore_end();
    free(syncs);
}
