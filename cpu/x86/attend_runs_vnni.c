// Attention over runs with AVX-512 VNNI: that of attend_runs_body.h, its integers by byte products.

#include "cpu/ladder.h"

#include "cpu/x86/score_dot.h"

#include "cpu/x86/attend_runs_body.h"

void attend_runs_vnni_fill(struct kernel_table *table)
{
    table->kv.attend_runs = attend_runs;
}
