// A machine without instruction sets that Fathom has kernels for: plain C only.

#include "cpu/ladder.h"

uint32_t ladder_isa(void)
{
    return 0;
}

void ladder_fill(struct kernel_table *table, uint32_t isa)
{
    (void)table;
    (void)isa;
}
