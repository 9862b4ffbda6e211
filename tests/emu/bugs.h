// Bugs planted for tests/emu/t_emu_bugs.c: what each is, and which modes of the emulation must
// catch it. Each has a clean twin, which must pass everywhere.

#ifndef FATHOM_TESTS_EMU_BUGS_H
#define FATHOM_TESTS_EMU_BUGS_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// Bits of modes, in the order of emu_modes.
enum {
    PLAIN = 1 << 0,
    REVERSE = 1 << 1,
    SWAP = 1 << 2,
    RANDOM = 1 << 3,
    RANDOM_EAGER = 1 << 4,
    LATE = 1 << 5,
    EVERY = (1 << 6) - 1,
    TSAN = 1 << 6, // by ThreadSanitizer, in its own build and in some mode
};

struct bug {
    const char *name;
    unsigned caught; // in these modes; where it can be in others, that is luck
    // In the report. NULL: the result is wrong, or depends on the order of threads.
    const char *says;
    // Runs the bug, or else its twin; false when the result is wrong.
    bool (*run)(const struct bug *bug, bool is_planted);
    // Of kernels.
    void (*clean)(const int *in, int *out);
    void (*planted)(const int *in, int *out);
};

extern const struct bug kernel_bugs[]; // bugs_kernel.cu
extern const size_t n_kernel_bugs;
extern const struct bug warp_bugs[]; // bugs_warp.cu
extern const size_t n_warp_bugs;
extern const struct bug host_bugs[]; // bugs_host.cu
extern const size_t n_host_bugs;

#ifdef __cplusplus
}
#endif

#endif
