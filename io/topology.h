// The machine's cores, as hwloc sees them.

#ifndef FATHOM_IO_TOPOLOGY_H
#define FATHOM_IO_TOPOLOGY_H

#include "fathom/types.h"

// CPUs that this process may run on, best for compute first: one hardware thread of every core
// (the fastest kinds of core first, where the machine has several), then the other threads.
struct cores {
    int32_t *cpus; // [n_cpus] system numbers; gives, free with topology_cores_fini
    uint32_t n_cpus;
    uint32_t n_cores;          // how many of them, from the front, are distinct physical cores
    uint64_t last_cache_bytes; // of one last-level cache; 0: unknown
};

// EUNSUPPORTED if hwloc cannot read the machine.
FATHOM_MUST_USE fathom_status topology_cores(struct cores *cores);
void topology_cores_fini(struct cores *cores);

// RAM of the machine.
uint64_t topology_memory_bytes(void);

#endif
