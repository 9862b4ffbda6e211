#include "cpu/ladder.h"

void attend_ref_fill(struct kernel_table *table) { (void)table; }
