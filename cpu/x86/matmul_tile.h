// The loops of matrix products with weights that are not quantised, for whichever instruction set
// includes it, and how its operands lie. What one multiplication is, the includer says.
//
// A panel holds VEC_LANES rows, for each column the rows side by side, in the file's type: one load
// gives a vector of rows, which is multiplied by one value of x. A tile of panels x tokens keeps
// its sums in registers while the columns pass once.
//
// Each value is one chain of multiply-adds in order of columns, whatever the tile: it cannot depend
// on how rows and tokens are cut. Independent chains come from the tile, so decoding takes several
// panels at once.

#ifndef FATHOM_CPU_X86_MATMUL_TILE_H
#define FATHOM_CPU_X86_MATMUL_TILE_H

#include "cpu/x86/simd.h"

#include <assert.h>
#include <string.h>

#include "src/iface/kernels.h"

enum {
    N_VECS = VEC_LANES == 16 ? 32 : 16, // registers
    TILE_PANELS = 2,
    TILE_TOKENS = VEC_LANES == 16 ? 12 : 6,
    FEW_TOKENS = 4,  // of what whole tiles leave; sums enough to keep the multipliers busy
    LONE_PANELS = 4, // of a tile with one token
    LINE_BYTES = 64,
    PACK_UNITS = 32, // packed at a time: a line or two of each row
};
static_assert(TILE_PANELS * TILE_TOKENS + TILE_PANELS + 1 <= N_VECS, "a tile fits the registers");

static uint32_t bytes_of_value(int32_t type)
{
    return type == FATHOM_TYPE_F32 ? 4 : 2;
}

static size_t round_to_line(size_t bytes)
{
    return (bytes + LINE_BYTES - 1) / LINE_BYTES * LINE_BYTES;
}

// A line more than the values take: with a power of two, the tokens of a tile would lie in the same
// set of the cache.
static size_t x_row_bytes(uint32_t n_cols)
{
    return round_to_line(n_cols * sizeof(float)) + LINE_BYTES;
}

SIMD_INLINE size_t bytes_of_panel(int32_t type, uint32_t n_cols)
{
    return round_to_line((size_t)n_cols * VEC_LANES * bytes_of_value(type));
}

// Units of unit_bytes, side by side as a panel has them. A panel's remaining rows are not touched.
SIMD_INLINE void pack_units(uint8_t *panel, const uint8_t *rows, size_t row_bytes, uint32_t n_rows,
                            uint32_t n_units, uint32_t unit_bytes)
{
    for (uint32_t begin = 0; begin < n_units; begin += PACK_UNITS) {
        const uint32_t end = n_units - begin < PACK_UNITS ? n_units : begin + PACK_UNITS;
        for (uint32_t row = 0; row < n_rows; row++)
            for (size_t i = begin; i < end; i++)
                memcpy(panel + (i * VEC_LANES + row) * unit_bytes,
                       rows + row * row_bytes + i * unit_bytes, unit_bytes);
    }
}

// The includer's: sum + w * x, where w was loaded with vec_load_type and x is one value of a
// token's row, of 4 bytes, in every lane.
SIMD_INLINE vec multiply_add(vec w, vec x, vec sum);

SIMD_INLINE void store_sums(const struct matmul_args *args, uint32_t row, uint32_t token, vec sums)
{
    const size_t n = args->n_rows - row;
    float *out = args->out + token * args->out_stride + row;
    if (args->bias != NULL) sums = vec_add(sums, vec_load_n(args->bias + row, n));
    if (args->accumulate) sums = vec_add(sums, vec_load_n(out, n));
    vec_store_n(out, sums, n);
}

// n_panels and n_tokens are constants. Panels and tokens that the share lacks are computed as its
// last ones, and not stored.
SIMD_INLINE void run_tile(int32_t type, const struct matmul_args *args, uint32_t row,
                          uint32_t token, uint32_t n_panels, uint32_t n_tokens)
{
    const uint32_t last_panel = (args->n_rows - 1) / VEC_LANES;
    const uint32_t last_token = args->n_tokens - 1;
    const uint8_t *panels[LONE_PANELS];
    const float *x[TILE_TOKENS];
    vec sums[LONE_PANELS][TILE_TOKENS];
    for (uint32_t p = 0; p < n_panels; p++) {
        const uint32_t panel = row / VEC_LANES + p < last_panel ? row / VEC_LANES + p : last_panel;
        panels[p] = (const uint8_t *)args->panels + panel * bytes_of_panel(type, args->n_cols);
    }
    for (uint32_t t = 0; t < n_tokens; t++) {
        const size_t at = token + t < last_token ? token + t : last_token;
        x[t] = (const float *)args->x + at * (x_row_bytes(args->n_cols) / sizeof(float));
    }
#pragma GCC unroll 4
    for (uint32_t p = 0; p < n_panels; p++)
#pragma GCC unroll 12
        for (uint32_t t = 0; t < n_tokens; t++)
            sums[p][t] = vec_zero();
    for (size_t col = 0; col < args->n_cols; col++) {
        vec w[LONE_PANELS];
#pragma GCC unroll 4
        for (uint32_t p = 0; p < n_panels; p++)
            w[p] = vec_load_type(type, panels[p] + col * VEC_LANES * bytes_of_value(type));
#pragma GCC unroll 12
        for (uint32_t t = 0; t < n_tokens; t++) {
            const vec value = vec_set1(x[t][col]);
#pragma GCC unroll 4
            for (uint32_t p = 0; p < n_panels; p++)
                sums[p][t] = multiply_add(w[p], value, sums[p][t]);
        }
    }
#pragma GCC unroll 4
    for (uint32_t p = 0; p < n_panels; p++)
#pragma GCC unroll 12
        for (uint32_t t = 0; t < n_tokens; t++)
            if (row + p * VEC_LANES < args->n_rows && token + t < args->n_tokens)
                store_sums(args, row + p * VEC_LANES, token + t, sums[p][t]);
}

// Panels outside, tokens inside: a pair of panels stays in the second-level cache.
SIMD_INLINE void run_tiles(int32_t type, const struct matmul_args *args)
{
    if (args->n_tokens == 1) {
        for (uint32_t row = 0; row < args->n_rows; row += LONE_PANELS * VEC_LANES)
            run_tile(type, args, row, 0, LONE_PANELS, 1);
        return;
    }
    for (uint32_t row = 0; row < args->n_rows; row += TILE_PANELS * VEC_LANES) {
        uint32_t token = 0;
        for (; args->n_tokens - token >= TILE_TOKENS; token += TILE_TOKENS)
            run_tile(type, args, row, token, TILE_PANELS, TILE_TOKENS);
        for (; token < args->n_tokens; token += FEW_TOKENS)
            run_tile(type, args, row, token, TILE_PANELS, FEW_TOKENS);
    }
}

#endif
