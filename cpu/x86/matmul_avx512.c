// Matrix products with F32, F16 and BF16 weights with AVX-512: the algorithm of matmul_body.h at
// this width.

#include "cpu/ladder.h"

#include "cpu/x86/matmul_body.h"

void matmul_avx512_fill(struct kernel_table *table)
{
    fill_float(table);
}
