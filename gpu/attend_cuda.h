// Launchers of dense attention: rows of a cache stored and attended to, partials merged. All
// pointers are the device's. Inside gpu/ only: the device makes a status of the error.

#ifndef FATHOM_GPU_ATTEND_CUDA_H
#define FATHOM_GPU_ATTEND_CUDA_H

#include <cuda_runtime_api.h>

#include "src/iface/device.h"
#include "src/iface/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

// Lets the kernels have the shared memory that they want; once for each device, before the first
// attend_dense_cuda.
cudaError_t attend_open_cuda(void);

// What device_ops.store_rows does: the same bits as the CPU's, but for the rounding of rotation.
// dev_row: where the kernel reads the row; NULL: it is args->row.
cudaError_t store_rows_cuda(const struct store_rows_args *args, const uint32_t *dev_row,
                            cudaStream_t stream);

// Bytes of device memory that a call needs for partials, on a device of n_sms multiprocessors: none
// unless the keys are split, and never more than ATTEND_CUDA_SM_BYTES for each multiprocessor.
enum { ATTEND_CUDA_SM_BYTES = 264 * 1024 };
size_t attend_dense_cuda_bytes(const struct dense_attend_args *args, uint32_t n_sms);

// What device_ops.attend_dense does; NaN, infinities and empty sets as in src/iface/kernels.h, but
// that a query which is not finite makes all its scores NaN, and that an infinite value which some
// tokens of a batch do not see may come out as NaN. dev_scratch: as many bytes as above, aligned to
// 16, NULL if 0; it is free again when the stream has come so far. The same n_sms and arguments
// give the same bits. dev_n_keys: where the kernels read n_keys; then args->n_keys is any number of
// the same reach. NULL: it is args->n_keys.
cudaError_t attend_dense_cuda(const struct dense_attend_args *args, const uint32_t *dev_n_keys,
                              uint32_t n_sms, void *dev_scratch, cudaStream_t stream);

// The keys that the tokens see, rounded up to a power of two, 64 at least. Launches depend on
// n_keys by this alone.
uint32_t attend_reach_cuda(const struct dense_attend_args *args);

// What kernel_table.merge does, d_v up to 256.
cudaError_t merge_cuda(const struct merge_args *args, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
