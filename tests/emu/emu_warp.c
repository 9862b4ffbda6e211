// Operations of a warp's lanes together, and asynchronous copies.

#include <string.h>

#include "tests/emu/emu_block.h"
#include "tests/emu/emu_kernel.h"
#include "tests/emu/emu_private.h"
#include "tests/emu/emu_sanitizer.h"

unsigned emu_lane(void)
{
    return emu_block.running->index % EMU_WARP;
}

static void check_mask(const struct emu_place *place, uint32_t mask)
{
    const struct emu_thread *thread = emu_block.running;
    unsigned lane = thread->index % EMU_WARP, n_there = emu_block.n_threads - thread->index + lane;
    uint32_t there = n_there >= EMU_WARP ? 0xffffffffu : (1u << n_there) - 1;
    if ((mask >> lane & 1) == 0)
        emu_fail("%s at %s:%d: lane %u is not in its mask %08x", place->what, place->file,
                 place->line, lane, mask);
    if ((mask & ~there) != 0)
        emu_fail("%s at %s:%d: mask %08x names lanes beyond the block's end", place->what,
                 place->file, place->line, mask);
}

// Whether another lane of the mask has come to the same place.
static bool has_come(const struct emu_thread *other, const struct emu_thread *thread)
{
    if (other->state == EMU_GONE) emu_block_stuck("a lane that a warp's mask names has ended");
    if (other->state != EMU_WAITING) return false;
    if (other->mask == thread->mask && emu_place_equal(&other->place, &thread->place)) return true;
    // A lane may wait elsewhere only for threads that can still come there.
    if ((other->mask >> thread->index % EMU_WARP & 1) != 0)
        emu_block_stuck("the lanes of a warp's mask at different operations");
    return false;
}

static bool all_have_come(const struct emu_thread *thread)
{
    const unsigned first = thread->index - thread->index % EMU_WARP;
    for (unsigned lane = 0; lane < EMU_WARP; lane++)
        if ((thread->mask >> lane & 1) != 0 && !has_come(emu_block.threads[first + lane], thread))
            return false;
    return true;
}

// Only __syncwarp does, on the device and for ThreadSanitizer.
static bool orders_memory(emu_complete_fn complete)
{
    return complete == emu_complete_nothing;
}

static void complete_for(const struct emu_thread *thread, emu_complete_fn complete)
{
    const unsigned first = thread->index - thread->index % EMU_WARP;
    const bool orders = orders_memory(complete);
    void *ins[EMU_WARP] = {NULL}, *outs[EMU_WARP] = {NULL};
    for (unsigned lane = 0; lane < EMU_WARP; lane++)
        if ((thread->mask >> lane & 1) != 0) {
            ins[lane] = emu_block.threads[first + lane]->in;
            outs[lane] = emu_block.threads[first + lane]->out;
            if (orders) emu_acquire(emu_block.threads[first + lane]->sync);
        }
    emu_ignore_begin(); // the operands are registers, whatever they look like
    complete(thread->mask, ins, outs);
    emu_ignore_end();
    for (unsigned lane = 0; lane < EMU_WARP; lane++)
        if ((thread->mask >> lane & 1) != 0) {
            if (orders) emu_release(emu_block.threads[first + lane]->sync);
            emu_block_wake(first + lane);
        }
}

void emu_meet(const struct emu_place *place, uint32_t mask, emu_complete_fn complete, void *in,
              void *out)
{
    struct emu_block *block = &emu_block;
    struct emu_thread *thread = block->running;
    unsigned first = thread->index - thread->index % EMU_WARP;
    check_mask(place, mask);
    thread->state = EMU_WAITING;
    thread->place = *place;
    thread->mask = mask;
    thread->in = in;
    thread->out = out;
    if (orders_memory(complete)) emu_release(thread->sync);
    // Looked at only when there are lanes enough: those of other masks wait in the same count.
    unsigned *n_waiting = &block->n_in_warp[first / EMU_WARP];
    if (++*n_waiting >= (unsigned)__builtin_popcount(mask) && all_have_come(thread)) {
        complete_for(thread, complete);
        *n_waiting -= (unsigned)__builtin_popcount(mask);
    }
    emu_block_wait();
    if (orders_memory(complete)) emu_acquire(thread->sync);
}

void emu_complete_nothing(uint32_t mask, void *const *in, void *const *out)
{
    (void)mask, (void)in, (void)out;
}

void emu_complete_shuffle(uint32_t mask, void *const *in, void *const *out)
{
    for (int lane = 0; lane < EMU_WARP; lane++) {
        if ((mask >> lane & 1) == 0) continue;
        int from = ((const struct emu_shuffle *)in[lane])->from;
        if (from < 0 || from >= EMU_WARP || (mask >> from & 1) == 0)
            emu_fail("shuffle: lane %d reads lane %d, which is not in the mask %08x", lane, from,
                     mask);
        *(uint64_t *)out[lane] = ((const struct emu_shuffle *)in[from])->value;
    }
}

void emu_complete_vote(uint32_t mask, void *const *in, void *const *out)
{
    unsigned votes = 0;
    for (int lane = 0; lane < EMU_WARP; lane++)
        if ((mask >> lane & 1) != 0 && *(const bool *)in[lane]) votes |= 1u << lane;
    for (int lane = 0; lane < EMU_WARP; lane++)
        if ((mask >> lane & 1) != 0) *(unsigned *)out[lane] = votes;
}

void emu_complete_match(uint32_t mask, void *const *in, void *const *out)
{
    for (int lane = 0; lane < EMU_WARP; lane++) {
        if ((mask >> lane & 1) == 0) continue;
        unsigned equal = 0;
        for (int other = 0; other < EMU_WARP; other++)
            if ((mask >> other & 1) != 0 &&
                *(const unsigned *)in[other] == *(const unsigned *)in[lane])
                equal |= 1u << other;
        *(unsigned *)out[lane] = equal;
    }
}

void emu_check_row(const void *row)
{
    if ((uintptr_t)row % 16 != 0 || !emu_block_is_shared(row, 16))
        emu_fail("kernel %s: ldmatrix: a row must be 16 bytes of shared memory, aligned to 16",
                 emu_block.launch->name);
}

// ---- Asynchronous copies ------------------------------------------------------------------------

static void do_copy(const struct emu_thread_copy *copy)
{
    memcpy(copy->to, copy->from, copy->bytes);
    memset((char *)copy->to + copy->bytes, 0, 16 - copy->bytes);
}

void emu_copy(void *to, const void *from, size_t bytes)
{
    struct emu_thread *thread = emu_block.running;
    const char *kernel = emu_block.launch->name;
    if ((uintptr_t)to % 16 != 0 || (uintptr_t)from % 16 != 0)
        emu_fail("kernel %s: cp.async: both sides must be aligned to 16 bytes", kernel);
    if (!emu_block_is_shared(to, 16))
        emu_fail("kernel %s: cp.async: does not write to shared memory", kernel);
    if (bytes > 0 && !emu_memory_is_range(from) && emu_memory_find(from) == NULL)
        emu_fail("kernel %s: cp.async: does not read global memory", kernel);
    if (thread->n_copies == EMU_COPIES_MAX)
        emu_fail("kernel %s: more than %d copies of a thread in flight", kernel, EMU_COPIES_MAX);
    struct emu_thread_copy copy = {to, from, bytes, thread->n_groups};
    if (emu_block.eager_copies)
        do_copy(&copy);
    else
        thread->copies[thread->n_copies++] = copy;
}

void emu_copy_commit(void)
{
    emu_block.running->n_groups++;
}

void emu_copy_wait(unsigned n_pending)
{
    struct emu_thread *thread = emu_block.running;
    unsigned n_done = 0;
    while (n_done < thread->n_copies && thread->copies[n_done].group + n_pending < thread->n_groups)
        do_copy(&thread->copies[n_done++]);
    thread->n_copies -= n_done;
    memmove(thread->copies, thread->copies + n_done, thread->n_copies * sizeof thread->copies[0]);
}
