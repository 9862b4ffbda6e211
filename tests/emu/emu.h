// The emulation of CUDA on the CPU, as tests see it. Linked in place of libcudart and libcublas;
// the prototypes are those of NVIDIA's own headers. What it catches and what it cannot:
// gpu/README.md.

#ifndef FATHOM_TESTS_EMU_EMU_H
#define FATHOM_TESTS_EMU_EMU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// How the emulated device behaves where CUDA leaves it open. Zeros are the plainest device.
struct emu_mode {
    const char *name;
    uint32_t order;    // of the threads of a block, and of blocks: 0 forward, 1 reverse, or a seed
    bool eager_copies; // asynchronous copies land when they are issued, not when waited for
    bool swap;         // every kernel runs twice, in both orders, and must write the same bytes
    uint32_t defer;    // work of streams: 0 at once, 1 as late as can be, or a seed
    size_t device_bytes; // memory of the device; 0: 1 GiB
    size_t shared_bytes; // most shared memory of a block; 0: 99 KiB, as on sm_86 and sm_89
    uint32_t n_devices;  // all with the one memory; 0: one
    uint32_t capability; // compute capability, 86 is 8.6; 0: 86
    int32_t driver;      // the CUDA that it knows, 13000 is 13.0; 0: 13.0; below 0: there is none
    bool lacks_gpu;      // the driver finds no device
    bool lacks_blas;     // there is no cuBLAS
    uint64_t fail_call;  // which call of those that can fail does fail, from 1; 0: none
};

// Every test of a kernel runs in all of these: no single one shows all races.
extern const size_t emu_n_modes;
extern const struct emu_mode emu_modes[];

// A fresh device.
void emu_begin(const struct emu_mode *mode);
// Ends it: finishes what streams still hold, and returns how many allocations, streams, events and
// handles were not given back; each is told on standard error.
size_t emu_end(void);

// Calls since emu_begin that could have failed: mode.fail_call counts the same.
uint64_t emu_calls(void);
// Graphs launched since then. On a device: UINT64_MAX.
uint64_t emu_graph_launches(void);

#ifdef __cplusplus
}
#endif

#endif
