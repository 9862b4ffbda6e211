// Matrix products with BF16 weights under AVX-512 BF16: the loops of matmul_tile.h over pairs of
// columns. A pair of bf16 is a value of 4 bytes, so its loads and broadcasts are those of f32; an
// odd last column is paired with zeros.
//
// x is rounded to bf16 once, as PyTorch and llama.cpp do for such weights: each product is off by
// at most 2^-8 of itself. Splitting x in two would give the accuracy of f32, at as many
// instructions as f32 takes. From 2^128 - 2^119 on x becomes infinite; below 2^-126 x, weights and
// sums of products count as zero. NaN and infinity stay what they are.

#include "cpu/ladder.h"

#include "cpu/x86/matmul_tile.h"

enum {
    PAIR_TYPE = FATHOM_TYPE_F32, // of the same bytes
    PAIR_BYTES = 4,
};

SIMD_INLINE vec multiply_add(vec w, vec x, vec sum)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
}

static uint32_t pairs_of(uint32_t n_cols)
{
    return n_cols / 2 + n_cols % 2;
}

static size_t pair_panel_bytes(uint32_t n_cols)
{
    return bytes_of_panel(PAIR_TYPE, pairs_of(n_cols));
}

static size_t pair_row_bytes(uint32_t n_cols)
{
    return x_row_bytes(pairs_of(n_cols));
}

static void pack_panel(void *panel, const void *rows, uint32_t n_rows, uint32_t n_cols)
{
    const size_t row_bytes = n_cols * sizeof(uint16_t);
    const size_t whole_bytes = n_cols / 2 * (size_t)PAIR_BYTES;
    memset(panel, 0, pair_panel_bytes(n_cols));
    pack_units(panel, rows, row_bytes, n_rows, n_cols / 2, PAIR_BYTES);
    for (uint32_t row = 0; row < n_rows && n_cols % 2 != 0; row++)
        memcpy((uint8_t *)panel + whole_bytes * VEC_LANES + row * (size_t)PAIR_BYTES,
               (const uint8_t *)rows + row * row_bytes + whole_bytes, sizeof(uint16_t));
}

// Whole lines are written: a row has room for them.
static void pack_x(void *packed, const float *x, uint32_t n_cols)
{
    const uint32_t step = 2 * VEC_LANES;
    for (uint32_t i = 0; i < n_cols; i += step) {
        const uint32_t rest = n_cols - i;
        const vec low = vec_load_n(x + i, rest);
        const vec high =
            rest > VEC_LANES ? vec_load_n(x + i + VEC_LANES, rest - VEC_LANES) : vec_zero();
        const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh(high, low);
        _mm512_storeu_si512((uint8_t *)packed + i * sizeof(uint16_t), halves);
    }
}

static void run(const struct matmul_args *args)
{
    struct matmul_args pairs = *args;
    pairs.n_cols = pairs_of(args->n_cols);
    run_tiles(PAIR_TYPE, &pairs);
}

void matmul_bf16_fill(struct kernel_table *table)
{
    table->matmul[FATHOM_TYPE_BF16] = (struct matmul_kernel){
        VEC_LANES, pair_panel_bytes, pair_row_bytes, pack_panel, pack_x, run};
}
