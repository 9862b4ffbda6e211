// Attention with AVX2: the algorithm of attend_body.h at this width.

#include "cpu/ladder.h"

#include "cpu/x86/attend_body.h"

static void attend_avx2(const struct attend_args *args)
{
    attend_any(args);
}

void attend_avx2_fill(struct kernel_table *table)
{
    table->attend = attend_avx2;
}
