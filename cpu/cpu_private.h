// What the files of the CPU device share.

#ifndef FATHOM_CPU_CPU_PRIVATE_H
#define FATHOM_CPU_CPU_PRIVATE_H

#include "src/base/pool.h"
#include "src/iface/device.h"
#include "src/iface/kernels.h"

enum {
    // Address space, which becomes memory only where it is touched.
    CPU_ACTIVATION_BYTES = 256 << 20, // packed activations of one call of matmul
    CPU_PARTIAL_BYTES = 256 << 20,    // partials of one call of attend_dense
    CPU_ROTATED_BYTES = 256 << 10,    // a thread's rotated rows
};

struct cpu_device {
    struct fathom_device base; // first: the device's public face
    struct pool *pool;
    struct kernel_table kernels;
    uint8_t *activations; // [CPU_ACTIVATION_BYTES]
    float *partials;      // [CPU_PARTIAL_BYTES]
    uint8_t *scratch;     // [n_threads][ATTEND_SCRATCH_BYTES + CPU_ROTATED_BYTES]
};

// Private to a thread while it runs a share of the pool's work.
static inline void *cpu_attend_scratch(const struct cpu_device *cpu, uint32_t thread)
{
    return cpu->scratch + (size_t)thread * (ATTEND_SCRATCH_BYTES + CPU_ROTATED_BYTES);
}

static inline float *cpu_rotated(const struct cpu_device *cpu, uint32_t thread)
{
    void *rotated = (uint8_t *)cpu_attend_scratch(cpu, thread) + ATTEND_SCRATCH_BYTES;
    return (float *)rotated;
}

extern const struct linear_ops cpu_linear_ops; // cpu_linear.c

fathom_status cpu_attend_store_rows(fathom_device *device, const struct store_rows_args *args);
fathom_status cpu_attend_dense(fathom_device *device, const struct dense_attend_args *args);

#endif
