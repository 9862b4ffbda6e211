// The CPU's kernel table.

#ifndef FATHOM_CPU_CPU_KERNELS_H
#define FATHOM_CPU_CPU_KERNELS_H

#include "src/iface/kernels.h"

// Fills the table: reference first, then what both the machine and isa_mask (bits of enum
// fathom_isa) allow.
void cpu_kernels_init(struct kernel_table *table, uint32_t isa_mask);

#endif
