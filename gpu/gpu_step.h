// Operations of a step that comes again and again: a CUDA graph launches all of them at once.
//
// Between gpu_step_begin and gpu_step_end the device keeps operations back until something else is
// asked of it. If they are those that it was asked before, but for the rows that are stored and the
// number of keys, it records a graph of them, and from then on launches that. Rows and numbers of
// keys lie in the device's memory and are sent ahead.
//
// That operations are the same is seen from their arguments alone: whoever frees memory that a
// graph may know calls gpu_step_forget.

#ifndef FATHOM_GPU_GPU_STEP_H
#define FATHOM_GPU_GPU_STEP_H

#include <cuda_runtime_api.h>

#include "gpu/vector_cuda.h"
#include "src/iface/device.h"
#include "src/iface/linear.h"

struct gpu_device;

enum gpu_op_kind { GPU_STORE_ROWS, GPU_ATTEND, GPU_MATMUL, GPU_RMSNORM, GPU_SWIGLU };

struct gpu_swiglu_args {
    const float *gate;
    const float *up;
    float *out;
    size_t n;
};

struct gpu_op {
    enum gpu_op_kind kind;
    union {
        struct store_rows_args store_rows;
        struct dense_attend_args attend;
        struct matmul_many_args matmul; // of few tokens, and weights on the device
        struct rmsnorm_args rmsnorm;
        struct gpu_swiglu_args swiglu;
    } args;
};

enum {
    GPU_STEP_OPS_MAX = 2048,
    GPU_STEP_TRIES = 3, // that fail one after another, and no graph is recorded any more
};

struct gpu_step {
    bool is_open;
    uint32_t n_failed; // recordings, one after another
    uint32_t n_ops;    // kept back
    uint32_t n_before;
    struct gpu_op *ops;    // [GPU_STEP_OPS_MAX] in place of what varies, 0 or the reach
    struct gpu_op *before; // [GPU_STEP_OPS_MAX] those done last
    uint32_t *varies;      // [GPU_STEP_OPS_MAX] the row, or the number of keys
    uint32_t *dev_varies;  // [GPU_STEP_OPS_MAX]
    cudaGraphExec_t exec;  // of `before`, or NULL
};

// The device's step is zero before; close it whatever comes back.
FATHOM_MUST_USE fathom_status gpu_step_open(struct gpu_device *gpu);
void gpu_step_close(struct gpu_device *gpu);

void gpu_step_begin(fathom_device *device);
// Forgets what is still kept back: of a step that failed.
void gpu_step_end(fathom_device *device);

// Does the operation, now or later.
FATHOM_MUST_USE fathom_status gpu_step_do(struct gpu_device *gpu, const struct gpu_op *op);
// Does what was kept back.
FATHOM_MUST_USE fathom_status gpu_step_flush(struct gpu_device *gpu);
// Drops the graph.
void gpu_step_forget(struct gpu_device *gpu);

#endif
