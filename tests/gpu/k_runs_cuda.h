// What the check of attention over runs on the device shares between its files: problems of the
// CPU's check (tests/kernels/k_runs.h), one for each KV head of a launch.

#ifndef FATHOM_TESTS_GPU_K_RUNS_CUDA_H
#define FATHOM_TESTS_GPU_K_RUNS_CUDA_H

#include "tests/kernels/k_runs.h"

enum { HEADS_MAX = 3 };

// KV heads of one launch: the same numbers but for those of rows and runs.
struct runs_heads {
    struct runs_problem heads[HEADS_MAX];
    uint32_t n_heads;
    uint32_t n_sms;
    bool is_single; // each row is a run of its own
};

// Runs the kernel over the heads' outputs: canaries, or the partial before.
void runs_device(struct runs_heads *p);

#endif
