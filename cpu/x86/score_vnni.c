// The scores with AVX-512 VNNI: those of score_body.h, their integers by byte products.

#include "cpu/ladder.h"

#include "cpu/x86/score_dot.h"

#include "cpu/x86/score_body.h"

void score_vnni_fill(struct kernel_table *table)
{
    fill_score_entries(table);
}
