// Launchers of the vector kernels: norms, rotary, activations, sums. What they compute is what the
// entries of the same names in src/iface/kernels.h do; all pointers are the device's. Inside gpu/
// only: the device makes a status of the error.

#ifndef FATHOM_GPU_VECTOR_CUDA_H
#define FATHOM_GPU_VECTOR_CUDA_H

#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

struct rmsnorm_args {
    const float *x;      // [n_rows, n_cols]
    const float *weight; // [n_cols]
    float *out;          // [n_rows, n_cols]; may be x
    size_t n_rows;
    size_t n_cols;
    float eps;
};
cudaError_t rmsnorm_cuda(const struct rmsnorm_args *args, cudaStream_t stream);

struct rope_args {
    float *x;             // [n_tokens, n_heads, d]; turned in place
    const float *cos_sin; // [n_tokens, n_rot / 2, 2]
    uint32_t n_tokens;
    uint32_t n_heads;
    uint32_t d;
    uint32_t n_rot;  // even, at most d
    int32_t pairing; // enum fathom_rope_pairing
};
cudaError_t rope_cuda(const struct rope_args *args, cudaStream_t stream);

// out = gate / (1 + exp(-gate)) * up; out may be gate or up.
cudaError_t swiglu_cuda(const float *gate, const float *up, float *out, size_t n,
                        cudaStream_t stream);

// x[r, :] += y, for each of n_rows rows of n_cols.
cudaError_t add_cuda(float *x, const float *y, size_t n_rows, size_t n_cols, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
