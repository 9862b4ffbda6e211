// AMX where the compiler does not know it, or the system is not one that lends it as Linux does.

#include "cpu/ladder.h"

bool ladder_has_amx(void)
{
    return false;
}

void matmul_amx_fill(struct kernel_table *table)
{
    (void)table;
}
