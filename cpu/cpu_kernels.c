// Fills a kernel table, reference first, then up the instruction-set ladder.

#include "cpu/cpu_kernels.h"

#include <string.h>

#include "cpu/ladder.h"

void cpu_kernels_init(struct kernel_table *table, uint32_t isa_mask)
{
    memset(table, 0, sizeof *table);
    table->name = "ref";
    dequant_ref_fill(table);
    matmul_ref_fill(table);
    score_ref_fill(table);
    vector_ref_fill(table);
    attend_ref_fill(table);
    attend_runs_ref_fill(table);
    kv_codec_ref_fill(table);
    ladder_fill(table, isa_mask & ladder_isa());
}
