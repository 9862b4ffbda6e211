// Dequantisation, shared by the reference kernels.

#ifndef FATHOM_CPU_REF_DEQUANT_REF_H
#define FATHOM_CPU_REF_DEQUANT_REF_H

#include "fathom/types.h"

// As kernel_table.dequant_row.
void dequant_ref_row(int32_t type, const void *row, float *out, size_t n_cols);

#endif
