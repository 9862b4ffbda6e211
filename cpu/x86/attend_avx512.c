// Attention with AVX-512: the algorithm of attend_body.h at this width.

#include "cpu/ladder.h"

#include "cpu/x86/attend_body.h"

static void attend_avx512(const struct attend_args *args)
{
    attend_any(args);
}

void attend_avx512_fill(struct kernel_table *table)
{
    table->attend = attend_avx512;
}
