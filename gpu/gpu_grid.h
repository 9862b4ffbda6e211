// The geometry of launches: plain C, so that it is tested without a device.

#ifndef FATHOM_GPU_GPU_GRID_H
#define FATHOM_GPU_GPU_GRID_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct gpu_grid {
    uint32_t blocks[3];
    uint32_t threads;      // of a block: a multiple of 32, all along x
    uint32_t shared_bytes; // dynamic shared memory of a block
};

enum { GPU_WARP = 32, GPU_ROW_THREADS_MAX = 1024, GPU_VALUE_THREADS = 256 };
enum { GPU_SLAB = 2048, GPU_SLAB_THREADS = 256 };

// Kernels go over what is beyond the grid in strides, so a grid may be smaller than the work. No
// grid is empty: who has no work does not launch.

// A block for each row, with a thread for every four columns as far as that goes.
struct gpu_grid gpu_grid_rows(size_t n_rows, size_t n_cols);
// A thread for each value.
struct gpu_grid gpu_grid_values(size_t n);
// A warp for each item, in blocks of as many threads.
struct gpu_grid gpu_grid_warps(size_t n);
// A block for each GPU_SLAB of n < 2^31 values, however many. Not in strides.
struct gpu_grid gpu_grid_slabs(uint32_t n);

// Keys of attention, cut into n parts of so many keys (a multiple of 64; the last may be shorter).
struct gpu_parts {
    uint32_t n;
    uint32_t keys;
};
// Keys of one of n parts, for host and device; the last parts may then be empty.
#define GPU_PART_STEP            64
#define GPU_PART_KEYS(n_keys, n) (((n_keys) / (n) / GPU_PART_STEP + 1) * GPU_PART_STEP)

// Cuts n_keys such that n_units of work become about n_wanted, and fewer than twice that, unless
// there are as many without; into parts of least_keys at least.
struct gpu_parts gpu_cut_keys(uint32_t n_keys, size_t n_units, size_t n_wanted,
                              uint32_t least_keys);
// A block for each tile of rows, KV head and part, in this order, the first fastest. Not in
// strides: there are fewer than 2^31.
struct gpu_grid gpu_grid_parts(uint32_t n_tiles, uint32_t n_kv_heads, uint32_t n_parts,
                               uint32_t threads, uint32_t shared_bytes);

#ifdef __cplusplus
}
#endif

#endif
