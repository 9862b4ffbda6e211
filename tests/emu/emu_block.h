// The running block and its threads, for the parts of the emulation that make threads wait.

#ifndef FATHOM_TESTS_EMU_EMU_BLOCK_H
#define FATHOM_TESTS_EMU_EMU_BLOCK_H

#include "tests/emu/emu_fiber.h"
#include "tests/emu/emu_kernel.h"

enum { EMU_COPIES_MAX = 128, EMU_ATOMICS_MAX = 8, EMU_VARIABLES_MAX = 32 };
enum { EMU_WARPS_MAX = EMU_THREADS_MAX / EMU_WARP };

struct emu_thread_copy { // cp.async issued and not done
    void *to;
    const void *from;
    size_t bytes;
    unsigned group;
};

enum emu_thread_state { EMU_READY, EMU_WAITING, EMU_GONE };

struct emu_thread {
    struct emu_fiber fiber;
    struct emu_ids ids;
    unsigned index; // in the block
    enum emu_thread_state state;
    struct emu_place place; // where it waits
    uint32_t mask;          // of a warp's operation; 0: the whole block
    void *in, *out;
    bool predicate;
    unsigned count;   // what the barrier gave
    const char *sync; // for ThreadSanitizer: carries what came before where threads meet
    struct emu_thread_copy copies[EMU_COPIES_MAX];
    unsigned n_copies, n_groups; // groups: committed so far
    const void *atomics[EMU_ATOMICS_MAX];
    unsigned n_atomics;
    bool fenced;
};

struct emu_variable { // of shared memory
    const void *tag;
    char *at;
    size_t bytes;
    void *allocated;
};

struct emu_block {
    const struct emu_launch *launch;
    struct emu_thread *threads[EMU_THREADS_MAX]; // kept from block to block
    struct emu_thread *running;
    unsigned n_threads, n_gone, n_at_barrier;
    uint32_t ready[EMU_WARPS_MAX];     // lanes that may run
    unsigned n_ready;                  // of all warps
    unsigned warp;                     // that runs, as long as it may
    unsigned n_in_warp[EMU_WARPS_MAX]; // lanes that wait in their warp's operations
    // The first is the dynamic one.
    struct emu_variable variables[EMU_VARIABLES_MAX];
    unsigned n_variables;
    size_t static_bytes;
    uint32_t order;
    bool eager_copies;
    unsigned char poison;
    const char *begin_sync, *end_sync; // for ThreadSanitizer
};
extern struct emu_block emu_block;

void emu_block_wait(void);           // the running thread, until it is made ready
void emu_block_wake(unsigned index); // makes a thread ready
bool emu_block_is_shared(const void *at, size_t bytes);
bool emu_place_equal(const struct emu_place *a, const struct emu_place *b);
// Says where every thread is, and aborts.
void emu_block_stuck(const char *why) __attribute__((noreturn));

#endif
