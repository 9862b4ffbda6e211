// One code of a packed row, for the references that read coded rows.

#ifndef FATHOM_CPU_REF_KV_CODEC_REF_H
#define FATHOM_CPU_REF_KV_CODEC_REF_H

#include "src/iface/kv_kernels.h"

// The code of channel c; `codes` is where the pieces of the row begin.
uint32_t kv_code_ref(uint32_t bits, const void *codes, uint32_t c);

// Step and min of a group of a V row.
void kv_v_scale_ref(const void *row, uint32_t group, float *step, float *min);

// Bytes before the codes of a V row.
size_t kv_v_head_bytes_ref(uint32_t d);

#endif
