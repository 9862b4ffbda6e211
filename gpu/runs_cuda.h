// Launcher of attention over runs of sealed rows (src/iface/kv_kernels.h) in device memory. All
// pointers are the device's. Inside gpu/ only: the device makes a status of the error.

#ifndef FATHOM_GPU_RUNS_CUDA_H
#define FATHOM_GPU_RUNS_CUDA_H

#include <cuda_runtime_api.h>

#include "src/iface/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

// Rows of a KV head that lie together: those of K at dev_k, those of V at dev_v, each aligned to
// the greatest power of two, 16 at most, that divides the bytes of such a row.
struct run_cuda {
    const void *dev_k;
    const void *dev_v;
    uint32_t begin;  // rows of the head's runs before this
    uint32_t n_rows; // no run is empty
};

// What a KV head attends to. Rows in codes are of one segment, whose ranges these are.
struct runs_head_cuda {
    const struct run_cuda *dev_runs; // [n_runs]
    uint32_t n_runs;                 // 0: nothing
    const float *dev_k_min;          // [d_k], or NULL: plain rows
    const float *dev_k_step;         // likewise
};

// Heads of a token lie by KV heads: query head h is of KV head h / group.
struct runs_args_cuda {
    const float *dev_q; // [n_tokens, n_kv_heads * group, d_k]
    uint32_t n_tokens;
    uint32_t n_kv_heads;
    uint32_t group;
    struct kv_format format;
    const struct runs_head_cuda *dev_heads; // [n_kv_heads]
    uint32_t n_rows;                        // of the KV head that has most
    float scale;
    bool accumulate; // merge with the partial that dev_o and dev_lse hold already
    float *dev_o;    // [n_tokens, n_kv_heads * group, d_v]
    float *dev_lse;  // [n_tokens, n_kv_heads * group]
};

// Bytes of device memory that a call needs for partials, on a device of n_sms multiprocessors.
size_t attend_runs_cuda_bytes(const struct runs_args_cuda *args, uint32_t n_sms);

// What kv_kernels.attend_runs does, for all KV heads at once; NaN, infinities, empty sets and the
// partial before as there, but that a query which is not finite makes all its scores NaN, and that
// an infinite value may come out as NaN. With rows in codes, queries times k_step and weights times
// V's steps may be rounded to 16 bits. dev_scratch: as many bytes as above, aligned to 16, NULL if
// 0; it is free again when the stream has come so far. The same n_sms and arguments give the same
// bits.
cudaError_t attend_runs_cuda(const struct runs_args_cuda *args, uint32_t n_sms, void *dev_scratch,
                             cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
