// Spherical k-means on centred vectors (RetroInfer, Chen et al. 2025, arXiv 2505.02922).

#ifndef FATHOM_INDEX_KMEANS_H
#define FATHOM_INDEX_KMEANS_H

#include "src/iface/kernels.h"

struct kmeans_args {
    const struct kernel_table *kernels;
    const float *x; // [n, d], not centred
    uint32_t n;
    uint32_t d;
    uint32_t m;        // clusters, 1 .. n
    uint32_t n_rounds; // of assignment and update, before the last assignment
    uint32_t *label;   // out [n]: 0 .. m - 1; some may be without members
    void *scratch;     // kmeans_scratch_bytes, 64-byte aligned
};

size_t kmeans_scratch_bytes(const struct kernel_table *kernels, uint32_t n, uint32_t d, uint32_t m);
// One thread; the same result every time.
void kmeans_run(const struct kmeans_args *args);

#endif
