// The instruction-set ladder: each rung overrides entries of a kernel table.

#ifndef FATHOM_CPU_LADDER_H
#define FATHOM_CPU_LADDER_H

#include "src/iface/kernels.h"

// Instruction sets of the running machine that Fathom has kernels for: bits of enum fathom_isa.
uint32_t ladder_isa(void);

// Whether there are AMX's tiles of bytes. Asks the system for leave to use them, for the process.
bool ladder_has_amx(void);

// Overrides entries of the table by what `isa` allows; isa must be a subset of ladder_isa().
void ladder_fill(struct kernel_table *table, uint32_t isa);

// The rungs. Each file of kernels has one, and calls nothing but intrinsics and its own helpers.
void attend_ref_fill(struct kernel_table *table);
void attend_runs_ref_fill(struct kernel_table *table);
void dequant_ref_fill(struct kernel_table *table);
void kv_codec_ref_fill(struct kernel_table *table);
void matmul_ref_fill(struct kernel_table *table);
void score_ref_fill(struct kernel_table *table);
void vector_ref_fill(struct kernel_table *table);
void attend_avx2_fill(struct kernel_table *table);
void attend_runs_avx2_fill(struct kernel_table *table);
void kv_codec_avx2_fill(struct kernel_table *table);
void matmul_avx2_fill(struct kernel_table *table);
void score_avx2_fill(struct kernel_table *table);
void vector_avx2_fill(struct kernel_table *table);
void attend_avx512_fill(struct kernel_table *table);
void attend_runs_avx512_fill(struct kernel_table *table);
void kv_codec_avx512_fill(struct kernel_table *table);
void matmul_avx512_fill(struct kernel_table *table); // float weights
void matmul_vnni_fill(struct kernel_table *table);   // quantised weights
void matmul_amx_fill(struct kernel_table *table);    // the same by many tokens; after VNNI
void matmul_bf16_fill(struct kernel_table *table);   // bf16 weights
void score_avx512_fill(struct kernel_table *table);
void score_vnni_fill(struct kernel_table *table);
void attend_runs_vnni_fill(struct kernel_table *table);
void vector_avx512_fill(struct kernel_table *table);

#endif
