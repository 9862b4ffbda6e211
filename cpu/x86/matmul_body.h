// Matrix products with F32, F16 and BF16 weights, for whichever instruction set includes it: the
// loops of matmul_tile.h. Weights are widened to f32 and x stays f32, so every product is rounded
// once, with the sum.

#ifndef FATHOM_CPU_X86_MATMUL_BODY_H
#define FATHOM_CPU_X86_MATMUL_BODY_H

#include "cpu/x86/matmul_tile.h"

SIMD_INLINE vec multiply_add(vec w, vec x, vec sum)
{
    return vec_fma(w, x, sum);
}

static void pack_x(void *packed, const float *x, uint32_t n_cols)
{
    memcpy(packed, x, n_cols * sizeof *x);
}

SIMD_INLINE void pack_rows(int32_t type, uint8_t *panel, const uint8_t *rows, uint32_t n_rows,
                           uint32_t n_cols)
{
    const uint32_t bytes = bytes_of_value(type);
    memset(panel, 0, bytes_of_panel(type, n_cols));
    pack_units(panel, rows, (size_t)n_cols * bytes, n_rows, n_cols, bytes);
}

// A matmul_kernel is not told its type, so each type has functions of its own.
#define MATMUL_FLOAT(TYPE)                                                                         \
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
        run_tiles(FATHOM_TYPE_##TYPE, args);                                                       \
    }                                                                                              \
    static const struct matmul_kernel kernel_##TYPE = {                                            \
        VEC_LANES, panel_bytes_##TYPE, x_row_bytes, pack_panel_##TYPE, pack_x, run_##TYPE};

MATMUL_FLOAT(F32)
MATMUL_FLOAT(F16)
MATMUL_FLOAT(BF16)

static void fill_float(struct kernel_table *table)
{
    table->matmul[FATHOM_TYPE_F32] = kernel_F32;
    table->matmul[FATHOM_TYPE_F16] = kernel_F16;
    table->matmul[FATHOM_TYPE_BF16] = kernel_BF16;
}

#endif
