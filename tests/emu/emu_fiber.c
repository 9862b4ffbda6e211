// Switching stacks. By hand on x86-64, where it is fifteen times as fast as swapcontext, which
// enters the kernel for the signal mask; by swapcontext elsewhere, and where EMU_UCONTEXT asks.

#include "tests/emu/emu_fiber.h"

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "tests/emu/emu_kernel.h"
#include "tests/emu/emu_sanitizer.h"

#if defined __x86_64__ && !defined EMU_UCONTEXT
#    define BY_HAND 1
#else
#    define BY_HAND 0
#    include <ucontext.h>
#endif

// The guard is as large as pages get.
enum { STACK_BYTES = 128 * 1024, GUARD_BYTES = 64 * 1024, SCHEDULERS_MAX = 128 };

// The fibers of one scheduler, kept: to make one of ThreadSanitizer's takes half a millisecond. And
// a stack that fibers of two schedulers used would be a race to it.
struct team {
    void *scheduler; // ThreadSanitizer's, NULL without it
    struct {
        char *stack;
        void *tsan;
    } fibers[EMU_THREADS_MAX];
};

static struct {
    void *sp, *fake_stack, *tsan;
    const void *bottom;
    size_t bytes;
    struct team teams[SCHEDULERS_MAX];
} scheduler;

#if BY_HAND
#    define IN_REGISTER __attribute__((unused))
// Saves what the callee must keep, leaves, and arrives.
__attribute__((naked, noinline)) static void switch_stack(IN_REGISTER void **save,
                                                          IN_REGISTER void *to)
{
    __asm__("pushq %rbp\n\tpushq %rbx\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n\t"
            "movq %rsp, (%rdi)\n\tmovq %rsi, %rsp\n\t"
            "popq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbx\n\tpopq %rbp\n\tret");
}

static void prepare_stack(struct emu_fiber *fiber, void (*entry)(void))
{
    enum { SAVED = 6 };
    // The entry finds the stack as a call would leave it: 8 bytes past a multiple of 16.
    void **top = (void **)(fiber->stack + STACK_BYTES) - 1;
    *top = NULL;
    *--top = (void *)(uintptr_t)entry;
    for (int i = 0; i < SAVED; i++)
        *--top = NULL;
    fiber->sp = top;
}
#else
static ucontext_t scheduler_context;

static void switch_stack(void **save, void *to)
{
    swapcontext(*save, to);
}

static void prepare_stack(struct emu_fiber *fiber, void (*entry)(void))
{
    static_assert(sizeof(ucontext_t) <= GUARD_BYTES, "there is room for it above the stack's end");
    ucontext_t *context = (ucontext_t *)(fiber->stack + STACK_BYTES);
    getcontext(context);
    context->uc_stack.ss_sp = fiber->stack;
    context->uc_stack.ss_size = STACK_BYTES;
    context->uc_link = NULL;
    makecontext(context, entry, 0);
    fiber->sp = context;
    scheduler.sp = &scheduler_context;
}
#endif

static struct team *own_team(void)
{
    for (int i = 0; i < SCHEDULERS_MAX; i++) {
        struct team *team = &scheduler.teams[i];
        if (team->scheduler == NULL) team->scheduler = scheduler.tsan;
        if (team->scheduler == scheduler.tsan) return team;
    }
    emu_fail("more than %d streams under ThreadSanitizer", SCHEDULERS_MAX);
}

// A guard that faults, the stack, and as much again for the context of swapcontext. No guard under
// ThreadSanitizer: those of all its stacks would be more mappings than a process may have.
static char *new_stack(void)
{
    char *map = mmap(NULL, STACK_BYTES + 2 * GUARD_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED ||
        (__tsan_create_fiber == NULL && mprotect(map, GUARD_BYTES, PROT_NONE) != 0))
        emu_fail("no memory for the stacks of fibers");
    return map + GUARD_BYTES;
}

void emu_fiber_begin(void)
{
    if (__tsan_get_current_fiber != NULL) scheduler.tsan = __tsan_get_current_fiber();
}

void emu_fiber_prepare(struct emu_fiber *fiber, unsigned index, void (*entry)(void))
{
    struct team *team = own_team();
    if (team->fibers[index].stack == NULL) team->fibers[index].stack = new_stack();
    if (team->fibers[index].tsan == NULL && __tsan_create_fiber != NULL)
        team->fibers[index].tsan = __tsan_create_fiber(0);
    fiber->stack = team->fibers[index].stack;
    fiber->tsan = team->fibers[index].tsan;
    fiber->fake_stack = NULL;
    prepare_stack(fiber, entry);
}

void emu_fiber_enter(struct emu_fiber *fiber)
{
    if (__tsan_switch_to_fiber != NULL) __tsan_switch_to_fiber(fiber->tsan, 1);
    if (__sanitizer_start_switch_fiber != NULL)
        __sanitizer_start_switch_fiber(&scheduler.fake_stack, fiber->stack, STACK_BYTES);
    switch_stack(&scheduler.sp, fiber->sp);
    if (__sanitizer_finish_switch_fiber != NULL)
        __sanitizer_finish_switch_fiber(scheduler.fake_stack, NULL, NULL);
}

static void leave(struct emu_fiber *fiber, bool for_ever)
{
    if (__tsan_switch_to_fiber != NULL) __tsan_switch_to_fiber(scheduler.tsan, 1);
    if (__sanitizer_start_switch_fiber != NULL)
        __sanitizer_start_switch_fiber(for_ever ? NULL : &fiber->fake_stack, scheduler.bottom,
                                       scheduler.bytes);
    switch_stack(&fiber->sp, scheduler.sp);
    if (__sanitizer_finish_switch_fiber != NULL)
        __sanitizer_finish_switch_fiber(fiber->fake_stack, NULL, NULL);
}

void emu_fiber_leave(struct emu_fiber *fiber)
{
    leave(fiber, false);
}

void emu_fiber_finish(struct emu_fiber *fiber)
{
    leave(fiber, true);
    abort();
}

void emu_fiber_entered(void)
{
    if (__sanitizer_finish_switch_fiber != NULL)
        __sanitizer_finish_switch_fiber(NULL, &scheduler.bottom, &scheduler.bytes);
}
