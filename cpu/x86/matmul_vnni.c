// Products of quantised weights under AVX-512 VNNI: the algorithm of matmul_vnni_body.h with the
// weights of 32 columns in 16 registers. Where several tokens meet them, each group of 4
// activations, once loaded, serves both groups of rows.

#include "cpu/ladder.h"

#include "cpu/x86/matmul_vnni_tile.h"

static ALWAYS_INLINE void add_blocks(const int32_t type, __m512 (*sums)[GROUPS],
                                     const struct weights *w, const uint8_t *x, size_t x_bytes,
                                     uint32_t n_tokens)
{
    for (uint32_t t = 0; t < n_tokens; t++, x += x_bytes)
        add_block(type, sums[t], w, GROUPS, (const struct x_block *)x);
}

#include "cpu/x86/matmul_vnni_body.h"

#define MATMUL_VNNI(TYPE)                                                                          \
    static size_t panel_bytes_##TYPE(uint32_t n_cols)                                              \
    {                                                                                              \
        return bytes_of_panel(FATHOM_TYPE_##TYPE, n_cols);                                         \
    }                                                                                              \
    static void pack_panel_##TYPE(void *panel, const void *rows, uint32_t n_rows, uint32_t n_cols) \
    {                                                                                              \
        pack_rows(FATHOM_TYPE_##TYPE, panel, rows, n_rows, n_cols);                                \
    }                                                                                              \
    static void run_##TYPE(const struct matmul_args *args)                                         \
    {                                                                                              \
        run(FATHOM_TYPE_##TYPE, args);                                                             \
    }                                                                                              \
    static const struct matmul_kernel kernel_##TYPE = {                                            \
        PANEL_ROWS, panel_bytes_##TYPE, x_row_bytes, pack_panel_##TYPE, pack_x, run_##TYPE};

MATMUL_VNNI(Q4_0)
MATMUL_VNNI(Q4_1)
MATMUL_VNNI(Q5_0)
MATMUL_VNNI(Q5_1)
MATMUL_VNNI(Q8_0)
MATMUL_VNNI(Q4_K)
MATMUL_VNNI(Q5_K)
MATMUL_VNNI(Q6_K)

void matmul_vnni_fill(struct kernel_table *table)
{
    table->matmul[FATHOM_TYPE_Q4_0] = kernel_Q4_0;
    table->matmul[FATHOM_TYPE_Q4_1] = kernel_Q4_1;
    table->matmul[FATHOM_TYPE_Q5_0] = kernel_Q5_0;
    table->matmul[FATHOM_TYPE_Q5_1] = kernel_Q5_1;
    table->matmul[FATHOM_TYPE_Q8_0] = kernel_Q8_0;
    table->matmul[FATHOM_TYPE_Q4_K] = kernel_Q4_K;
    table->matmul[FATHOM_TYPE_Q5_K] = kernel_Q5_K;
    table->matmul[FATHOM_TYPE_Q6_K] = kernel_Q6_K;
}
