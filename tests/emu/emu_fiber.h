// Fibers: stacks that take turns on one thread of the host. One scheduler, many fibers.

#ifndef FATHOM_TESTS_EMU_EMU_FIBER_H
#define FATHOM_TESTS_EMU_EMU_FIBER_H

struct emu_fiber {
    char *stack;
    void *sp;         // where it left off
    void *fake_stack; // AddressSanitizer's
    void *tsan;       // ThreadSanitizer's fiber
};

// Takes the calling thread as the scheduler of what follows.
void emu_fiber_begin(void);
// Makes the fiber start at `entry` when it is entered next. `index` is its number among the
// scheduler's fibers, which keep their stacks.
void emu_fiber_prepare(struct emu_fiber *fiber, unsigned index, void (*entry)(void));
void emu_fiber_enter(struct emu_fiber *fiber); // by the scheduler; returns when the fiber leaves
void emu_fiber_leave(struct emu_fiber *fiber); // by the fiber; returns when it is entered again
void emu_fiber_entered(void);                  // by the fiber, first of all
// By the fiber, last of all.
void emu_fiber_finish(struct emu_fiber *fiber) __attribute__((noreturn));

#endif
