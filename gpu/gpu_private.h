// What the files of the CUDA device share.
//
// One stream does all of the device's work in the order of the calls; with others it keeps the
// order that callers ask for (wait_stream, stream_waits), and no other. Host memory that it reads
// or writes is pinned memory of `staging`.

#ifndef FATHOM_GPU_GPU_PRIVATE_H
#define FATHOM_GPU_GPU_PRIVATE_H

#include "gpu/gpu_blas.h"
#include "gpu/gpu_error.h"
#include "gpu/gpu_range.h"
#include "gpu/gpu_staging.h"
#include "gpu/gpu_step.h"
#include "src/iface/device.h"
#include "src/iface/linear.h"

struct gpu_device {
    struct fathom_device base; // first: the device's public face
    fathom_device *host;       // owned
    int index;
    cudaStream_t stream;
    cudaEvent_t order; // with streams of callers
    struct gpu_staging staging;
    struct gpu_blas blas;
    void *dev_workspace;  // cuBLAS's
    uint8_t *dev_scratch; // [scratch_bytes] of whatever call is queued
    size_t scratch_bytes;
    size_t product_bytes; // of it, for products
    uint8_t *dev_guest;   // [guest_bytes] packed rows of whichever weight in RAM is multiplied
    size_t guest_bytes;
    struct gpu_step step;
    uint32_t n_sms; // multiprocessors
    // The fault of a call that cannot return it: told by the next that waits.
    fathom_status lost;
    char lost_text[256];
};

struct weight {
    struct weight_desc desc; // name and rows are not kept
    struct weight *table;    // of the host's device; NULL: no table
    uint8_t *dev;     // packed rows (gpu/product_rows.h); NULL if they are in RAM, and of a table
    uint8_t *ram;     // packed rows in the host's memory, or NULL
    size_t row_bytes; // of them
};

static inline size_t weight_bytes(const struct weight *weight)
{
    return weight->desc.n_rows * weight->row_bytes;
}

// What is done at once begins with it: what CUDA calls the current device belongs to the thread,
// and what was kept back comes first.
static inline fathom_status gpu_enter(struct gpu_device *gpu)
{
    GPU_TRY(cudaSetDevice, gpu->index);
    return gpu_step_flush(gpu);
}

// ---- gpu_device.c -------------------------------------------------------------------------------
// Memory with anything in it. ENOMEM says how much there is, and what would take less.
fathom_status gpu_take(size_t bytes, const char *what, void **dev);
// What a device takes whatever the model.
fathom_status gpu_take_own(size_t bytes, const char *what, void **dev);

// ---- gpu_linear.c -------------------------------------------------------------------------------
extern const struct linear_ops gpu_linear_ops;

// ---- gpu_matmul.c -------------------------------------------------------------------------------
fathom_status gpu_matmul(fathom_device *device, const struct matmul_many_args *args);
// Of at most PRODUCT_TOKENS_MAX tokens, and weights on the device.
fathom_status gpu_matmul_decode(struct gpu_device *gpu, const struct matmul_many_args *args);

// ---- gpu_attend.c -------------------------------------------------------------------------------
fathom_status gpu_attend_store_rows(fathom_device *device, const struct store_rows_args *args);
fathom_status gpu_attend_dense(fathom_device *device, const struct dense_attend_args *args);

// ---- gpu_list.c ---------------------------------------------------------------------------------
// The GPU to use: index itself, or the first that can be used if it is below 0.
fathom_status gpu_list_choose(int32_t index, int *chosen, struct fathom_device_info *info);

#endif
