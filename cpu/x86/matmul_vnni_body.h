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
    PREFETCH_BYTES = 4096,   // ahead in the panels
    LONE_PANELS = 4,         // that one token meets at once
};

// To the second-level cache: the first level of Zen 4 waits for some 25 lines of memory at once,
// and gets half of what the second does.
static ALWAYS_INLINE void prefetch_bytes(const uint8_t *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += VECTOR)
        _mm_prefetch((const char *)at + i, _MM_HINT_T1);
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

// The panels from `row` on and n_tokens tokens; n_panels is a constant. Panels that are lacking are
// computed as the last, and not stored.
static ALWAYS_INLINE void run_tile(const int32_t type, const struct matmul_args *args, uint32_t row,
                                   uint32_t token, uint32_t n_panels, uint32_t n_tokens)
{
    const struct layout layout = layout_of(type);
    const uint32_t share_bytes = layout.unit_bytes / layout.n_blocks;
    const uint32_t last = (args->n_rows - 1) / PANEL_ROWS;
    const size_t x_bytes = x_row_bytes(args->n_cols);
    const uint8_t *panels[LONE_PANELS];
    __m512 sums[TILE_TOKENS][GROUPS]; // [n_panels, n_tokens]
    for (uint32_t p = 0; p < n_panels; p++) {
        const uint32_t panel = row / PANEL_ROWS + p < last ? row / PANEL_ROWS + p : last;
        panels[p] = (const uint8_t *)args->panels + panel * bytes_of_panel(type, args->n_cols);
    }
    for (uint32_t i = 0; i < n_panels * n_tokens; i++)
        for (uint32_t g = 0; g < GROUPS; g++)
            sums[i][g] = _mm512_setzero_ps();
    for (size_t at = 0; at < args->n_cols / BLOCK; at += layout.n_blocks)
        for (uint32_t block = 0; block < layout.n_blocks; block++)
            for (uint32_t p = 0; p < n_panels; p++) {
                const uint8_t *unit = panels[p] + at / layout.n_blocks * layout.unit_bytes;
                const uint8_t *x = (const uint8_t *)args->x + token * x_bytes +
                                   (at + block) * sizeof(struct x_block);
                struct weights w[GROUPS];
                prefetch_bytes(unit + share_bytes * block + PREFETCH_BYTES, share_bytes);
                for (uint32_t g = 0; g < GROUPS; g++)
                    unpack_group(type, unit, block, g, &w[g]);
                add_blocks(type, &sums[p * n_tokens], w, x, x_bytes, n_tokens);
            }
    for (uint32_t p = 0; p < n_panels && row + p * PANEL_ROWS < args->n_rows; p++)
        for (uint32_t t = 0; t < n_tokens; t++)
            store_sums(args, row + p * PANEL_ROWS, token + t, sums[p * n_tokens + t]);
}

// One token meets several panels at once, since a processor reads faster from a few places by turns
// than from one.
static ALWAYS_INLINE void run(const int32_t type, const struct matmul_args *args)
{
    size_t tile_tokens = TILE_BYTES / x_row_bytes(args->n_cols);
    if (tile_tokens > TILE_TOKENS) tile_tokens = TILE_TOKENS;
    tile_tokens = tile_tokens < TOKENS_GRAIN ? TOKENS_GRAIN : tile_tokens & ~(TOKENS_GRAIN - 1);
    const uint32_t lone_rows = LONE_PANELS * PANEL_ROWS;
    for (uint32_t row = 0; args->n_tokens == 1 && row < args->n_rows; row += lone_rows)
        run_tile(type, args, row, 0, LONE_PANELS, 1);
    for (uint32_t token = 0, n; args->n_tokens > 1 && token < args->n_tokens; token += n) {
        const uint32_t left = args->n_tokens - token;
        n = left < tile_tokens ? left : (uint32_t)tile_tokens;
        for (uint32_t row = 0; row < args->n_rows; row += PANEL_ROWS)
            run_tile(type, args, row, token, 1, n);
    }
}

#endif
