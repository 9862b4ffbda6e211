#include "cpu/ladder.h"

void dequant_ref_fill(struct kernel_table *table) { (void)table; }
