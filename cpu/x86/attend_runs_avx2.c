// Attention over runs with AVX2: the algorithm of attend_runs_body.h at this width.

#include "cpu/ladder.h"

#include "cpu/x86/score_madd.h"

#include "cpu/x86/attend_runs_body.h"

void attend_runs_avx2_fill(struct kernel_table *table)
{
    table->kv.attend_runs = attend_runs;
}
