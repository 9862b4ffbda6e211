// The vector kernels with AVX2: those of vector_body.h at this width.

#include "cpu/ladder.h"

#include "cpu/x86/vector_body.h"

void vector_avx2_fill(struct kernel_table *table)
{
    fill_vector_entries(table);
}
