// Contract: a device, a place with memory and an ordered queue of operations.
//
// All entries but free_bytes are mandatory. Operations are queued in order and may be asynchronous;
// `download` and `sync` wait. The CPU device has finished when the call returns. Pointers named
// dev_* lie in the device's memory and must not be dereferenced by the caller.

#ifndef FATHOM_SRC_IFACE_DEVICE_H
#define FATHOM_SRC_IFACE_DEVICE_H

#include "fathom/device.h"
#include "src/base/log.h"

struct kernel_table; // src/iface/kernels.h
struct linear_ops;   // src/iface/linear.h
struct pool;         // src/base/pool.h

// Rotates heads by position, converts and stores them as rows of a cache.
// Token t, head h of x goes to dev_rows + h * head_stride_bytes + (row + t) * row_bytes.
struct store_rows_args {
    const float *dev_x; // [n_tokens, n_heads, d]
    uint32_t n_tokens;
    uint32_t n_heads;
    uint32_t d;
    const float *dev_cos_sin; // [n_tokens, n_rot / 2, 2], or NULL: not rotated
    uint32_t n_rot;
    int32_t pairing;
    int32_t type; // F32, F16 or BF16
    void *dev_rows;
    size_t head_stride_bytes;
    size_t row_bytes;
    uint32_t row;
};

// Causal attention of n_tokens queries over rows 0 .. n_keys - 1 of a cache; token t stands at
// position n_keys - n_tokens + t.
struct dense_attend_args {
    const float *dev_q; // [n_tokens, n_heads, d_k], before rotation; left as it is
    uint32_t n_tokens;
    uint32_t n_heads;
    uint32_t n_kv_heads;
    uint32_t d_k;
    uint32_t d_v;
    const float *dev_cos_sin; // as above
    uint32_t n_rot;
    int32_t pairing;
    int32_t kv_type;
    const void *dev_k; // head h, row j at dev_k + h * k_head_stride_bytes + j * k_row_bytes
    size_t k_head_stride_bytes;
    size_t k_row_bytes;
    const void *dev_v;
    size_t v_head_stride_bytes;
    size_t v_row_bytes;
    uint32_t n_keys;
    uint32_t n_window; // 0: full
    float scale;
    float *dev_out; // [n_tokens, n_heads, d_v]
    float *dev_lse; // [n_tokens, n_heads], or NULL
};

struct device_ops {
    // Zeroed memory, taken as it is touched where the device can; 64-byte aligned.
    fathom_status (*alloc)(fathom_device *device, size_t bytes, const char *what, void **dev);
    void (*release)(fathom_device *device, void *dev, size_t bytes); // NULL is fine
    // Gives memory back that will be written before it is read again.
    void (*discard)(fathom_device *device, void *dev, size_t bytes);
    fathom_status (*upload)(fathom_device *device, void *dev, const void *host, size_t bytes);
    fathom_status (*download)(fathom_device *device, void *host, const void *dev, size_t bytes);
    // Inside the device's memory; the ranges may overlap.
    void (*move)(fathom_device *device, void *dev_to, const void *dev_from, size_t bytes);
    fathom_status (*sync)(fathom_device *device);
    // Of the device's own memory. NULL: it works in the host's, where the host may follow dev_*
    // pointers as well.
    uint64_t (*free_bytes)(fathom_device *device);
    fathom_status (*store_rows)(fathom_device *device, const struct store_rows_args *args);
    fathom_status (*attend_dense)(fathom_device *device, const struct dense_attend_args *args);
    // Around a step of one token, which ends with download or sync: the device may keep store_rows,
    // attend_dense, matmul, rmsnorm and swiglu back until something else is asked of it, tell their
    // faults as late, and do them faster when steps are alike but for `row` and `n_keys`. What is
    // kept back at the end is of a step that failed, and forgotten.
    void (*step_begin)(fathom_device *device);
    void (*step_end)(fathom_device *device);
    // fathom_device_wait_stream and fathom_stream_wait_device.
    fathom_status (*wait_stream)(fathom_device *device, void *stream);
    fathom_status (*stream_waits)(fathom_device *device, void *stream);
    void (*close)(fathom_device *device); // frees the device itself
};

// Every implementation's struct begins with this.
struct fathom_device {
    const struct device_ops *ops;
    const struct linear_ops *linear;
    struct pool *pool;                  // threads of the host, for work on host memory
    const struct kernel_table *kernels; // what they run
    struct log log;
    char text[256]; // fathom_device_text
};

#endif
