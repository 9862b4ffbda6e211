// Launcher of the kernel that finds the largest logits, so that only these leave the device. Inside
// gpu/ only: the device makes a status of the error.

#ifndef FATHOM_GPU_LOGITS_CUDA_H
#define FATHOM_GPU_LOGITS_CUDA_H

#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

#include "src/iface/linear.h"

#ifdef __cplusplus
extern "C" {
#endif

// Device memory for logits_best_cuda, aligned to 8.
size_t logits_scratch_bytes(uint32_t n_logits, uint32_t n_best);

// best[0 .. n_best - 1] = the n_best largest finite values of logits [n_logits] and where they are,
// the largest first; of equal ones, the first. Where there are fewer, ids of the others are -1.
// n_best is 1 to LOGITS_BEST_MAX. Pointers are the device's; nothing overlaps.
cudaError_t logits_best_cuda(const float *logits, uint32_t n_logits, struct logit *best,
                             uint32_t n_best, void *scratch, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
