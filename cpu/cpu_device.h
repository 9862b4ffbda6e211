// The CPU device: host memory, a team of threads and a kernel table.

#ifndef FATHOM_CPU_CPU_DEVICE_H
#define FATHOM_CPU_CPU_DEVICE_H

#include "src/iface/device.h"

struct cpu_device_params {
    uint32_t n_threads;  // 1 or more
    const int32_t *cpus; // [n_threads] to pin to, or NULL; borrowed
    uint32_t isa_mask;   // bits of enum fathom_isa
    struct log log;
};

FATHOM_MUST_USE fathom_status cpu_device_open(const struct cpu_device_params *params,
                                              fathom_device **device);

#endif
