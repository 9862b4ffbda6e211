// Products of quantised weights, for whichever instruction set includes it: activations of 15 bits
// in two halves, exact integer dot products over blocks of 32 columns, f32 sums over the blocks in
// order of columns. The second half is hidden behind the memory when one token is decoded, and
// spares next-token distributions the rounding that 8 bits bring (tools/peers/README.md).
//
// The weights of 32 columns are unpacked once and met by up to TILE_TOKENS tokens, whose sums wait
// in the first-level cache. Before this header the including file defines
//     add_blocks(type, sums, w, x, x_bytes, n_tokens): adds the products of 32 columns of a panel,
//     w[GROUPS], and n_tokens tokens, each x_bytes after the last, to sums [n_tokens][GROUPS].

#ifndef FATHOM_CPU_X86_MATMUL_VNNI_BODY_H
#define FATHOM_CPU_X86_MATMUL_VNNI_BODY_H

#include "cpu/x86/matmul_vnni_tile.h"

#include "src/iface/kernels.h"

enum {
    TILE_TOKENS = 64,        // that share unpacked weights
    TILE_BYTES = 512 * 1024, // of packed activations in a tile: what the second-level cache keeps
    TOKENS_GRAIN = 16,       // of a tile
    PREFETCH_BYTES = 8192,   // ahead in the panels
};

// To the first-level cache, and that far: K types read half as fast without it.
static ALWAYS_INLINE void prefetch_bytes(const uint8_t *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += VECTOR)
        _mm_prefetch((const char *)at + i, _MM_HINT_T0);
}

// Of one token and the rows of a panel.
static ALWAYS_INLINE void store_sums(const struct matmul_args *args, uint32_t row, uint32_t token,
                                     const __m512 *sums)
{
    float *out = args->out + token * args->out_stride;
    for (uint32_t g = 0; g < GROUPS && row < args->n_rows; g++, row += LANES) {
        uint32_t rest = args->n_rows - row;
        __mmask16 mask = (__mmask16)(rest < LANES ? (1u << rest) - 1 : 0xffff);
        __m512 sum = sums[g];
        if (args->bias != NULL)
            sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, args->bias + row));
        if (args->accumulate) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, out + row));
        _mm512_mask_storeu_ps(out + row, mask, sum);
    }
}

// The panel of rows `row` and on, and n_tokens tokens.
static ALWAYS_INLINE void run_tile(const int32_t type, const struct matmul_args *args, uint32_t row,
                                   uint32_t token, uint32_t n_tokens)
{
    const struct layout layout = layout_of(type);
    const uint32_t share_bytes = layout.unit_bytes / layout.n_blocks;
    const size_t x_bytes = x_row_bytes(args->n_cols);
    const uint8_t *unit =
        (const uint8_t *)args->panels + row / PANEL_ROWS * bytes_of_panel(type, args->n_cols);
    const uint8_t *x = (const uint8_t *)args->x + token * x_bytes;
    __m512 sums[TILE_TOKENS][GROUPS];
    for (uint32_t t = 0; t < n_tokens; t++)
        for (uint32_t g = 0; g < GROUPS; g++)
            sums[t][g] = _mm512_setzero_ps();
    for (size_t at = 0; at < args->n_cols / BLOCK; at += layout.n_blocks, unit += layout.unit_bytes)
        for (uint32_t block = 0; block < layout.n_blocks; block++, x += sizeof(struct x_block)) {
            struct weights w[GROUPS];
            prefetch_bytes(unit + share_bytes * block + PREFETCH_BYTES, share_bytes);
            for (uint32_t g = 0; g < GROUPS; g++)
                unpack_group(type, unit, block, g, &w[g]);
            add_blocks(type, sums, w, x, x_bytes, n_tokens);
        }
    for (uint32_t t = 0; t < n_tokens; t++)
        store_sums(args, row, token + t, sums[t]);
}

// One token, which meets one panel after the other, and for each 32 columns one group after the
// other: quants in the order of addresses, which the processor follows over the end of a panel
// (tools/peers/README.md has what else was tried).
static ALWAYS_INLINE void run_lone(const int32_t type, const struct matmul_args *args, uint32_t row)
{
    const struct layout layout = layout_of(type);
    const uint32_t share_bytes = layout.unit_bytes / layout.n_blocks;
    const uint8_t *unit =
        (const uint8_t *)args->panels + row / PANEL_ROWS * bytes_of_panel(type, args->n_cols);
    const struct x_block *x = args->x;
    __m512 sums[GROUPS] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (size_t at = 0; at < args->n_cols / BLOCK; at += layout.n_blocks, unit += layout.unit_bytes)
        for (uint32_t block = 0; block < layout.n_blocks; block++, x++) {
            prefetch_bytes(unit + share_bytes * block + PREFETCH_BYTES, share_bytes);
#pragma GCC unroll 2
            for (uint32_t g = 0; g < GROUPS; g++) {
                struct weights w;
                unpack_group(type, unit, block, g, &w);
                add_block(type, &sums[g], &w, 1, x);
            }
        }
    store_sums(args, row, 0, sums);
}

static ALWAYS_INLINE void run(const int32_t type, const struct matmul_args *args)
{
    size_t tile_tokens = TILE_BYTES / x_row_bytes(args->n_cols);
    if (tile_tokens > TILE_TOKENS) tile_tokens = TILE_TOKENS;
    tile_tokens = tile_tokens < TOKENS_GRAIN ? TOKENS_GRAIN : tile_tokens & ~(TOKENS_GRAIN - 1);
    for (uint32_t row = 0; args->n_tokens == 1 && row < args->n_rows; row += PANEL_ROWS)
        run_lone(type, args, row);
    for (uint32_t token = 0, n; args->n_tokens > 1 && token < args->n_tokens; token += n) {
        const uint32_t left = args->n_tokens - token;
        n = left < tile_tokens ? left : (uint32_t)tile_tokens;
        for (uint32_t row = 0; row < args->n_rows; row += PANEL_ROWS)
            run_tile(type, args, row, token, n);
    }
}

#endif
