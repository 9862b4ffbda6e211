// The scores with AVX-512: those of score_body.h at this width, their integers by multiply-adds.

#include "cpu/ladder.h"

#include "cpu/x86/score_blend.h"
#include "cpu/x86/score_madd.h"
#include "cpu/x86/score_rank.h"

#include "cpu/x86/score_body.h"

void score_avx512_fill(struct kernel_table *table)
{
    fill_blend_entries(table);
    fill_rank_entries(table);
    fill_score_entries(table);
}
