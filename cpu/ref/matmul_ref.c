#include "cpu/ladder.h"

void matmul_ref_fill(struct kernel_table *table) { (void)table; }
