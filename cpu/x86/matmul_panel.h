// Panels of quantised weights: their layout and how rows of a file are packed into them. Plain C;
// the number of rows, and with it the width of a vector, is the caller's constant.
//
// A panel is R rows in units of 64 columns (types with blocks of 32) or 256 (K types). A unit is
//     header: R f16 scales and R f16 offsets for each block of the file's format, scales first; K
//             types: then sub-scales and minima, R bytes for each (see struct panel_layout)
//     quants of each 32 columns: a vector of 4 R bytes holds 4 columns (a step) of R rows, row
//             after row, unsigned. 8 bit: 8 vectors. Fewer: 4 vectors with step 2i in the low and
//             step 2i + 1 in the high nibbles; then the fifth bits in one vector, bit j of a byte
//             for step j; or the fifth and sixth in two, bits 2j of a byte for steps j and 4 + j
// With an odd number of blocks of 32, the last header is used by half.

#ifndef FATHOM_CPU_X86_MATMUL_PANEL_H
#define FATHOM_CPU_X86_MATMUL_PANEL_H

#include <string.h>

#include "src/base/quants.h"

enum {
    PANEL_BLOCK = 32, // columns that are multiplied at a time
    PANEL_STEPS = 8,  // of 4 columns in a block
};

#define PANEL_INLINE static inline __attribute__((always_inline))

// Where things lie in a unit, in bytes. All of it folds to constants.
struct panel_layout {
    uint32_t unit_blocks;
    uint32_t offsets_at; // after the scales
    uint32_t scales_at;  // sub-scales
    uint32_t mins_at;
    uint32_t header_bytes;
    uint32_t block_bytes; // of the quants of 32 columns
};

PANEL_INLINE struct panel_layout panel_layout_of(int32_t type, uint32_t n_rows)
{
    const struct quant_form form = quant_form_of(type);
    const uint32_t vector = 4 * n_rows; // bytes; one bit of every quant of a block
    struct panel_layout layout = {.unit_blocks = 2, .block_bytes = form.n_bits * vector};
    if (form.block_values != QUANT_BLOCK_MAX) {
        layout.offsets_at = vector;
        layout.header_bytes = form.has_min ? 2 * vector : vector;
        return layout;
    }
    layout.unit_blocks = QUANT_BLOCK_MAX / PANEL_BLOCK;
    layout.offsets_at = vector / 2;
    layout.scales_at = vector;
    layout.mins_at = vector + 8 * n_rows;
    layout.header_bytes = 5 * vector; // whole vectors: Q6_K leaves a half unused
    return layout;
}

PANEL_INLINE size_t panel_bytes_of(int32_t type, uint32_t n_rows, uint32_t n_cols)
{
    const struct panel_layout layout = panel_layout_of(type, n_rows);
    const size_t n_blocks = n_cols / PANEL_BLOCK;
    const size_t n_units = (n_blocks + layout.unit_blocks - 1) / layout.unit_blocks;
    return (n_units * layout.header_bytes + n_blocks * layout.block_bytes + 63) / 64 * 64;
}

// One row's quants of 32 columns; the four columns of a step are the bytes of a word.
PANEL_INLINE void pack_quants(int32_t type, uint8_t *out, const uint8_t *quants, uint32_t n_rows,
                              uint32_t row)
{
    const uint32_t n_bits = quant_form_of(type).n_bits;
    uint32_t words[PANEL_STEPS] = {0};
#pragma GCC unroll 8
    for (uint32_t step = 0; step < PANEL_STEPS; step++) {
        uint32_t u;
        memcpy(&u, quants + 4 * step, sizeof u);
        if (n_bits == 8) {
            words[step] = u;
            continue;
        }
        words[step / 2] |= (u & 0x0f0f0f0f) << 4 * (step % 2);
        if (n_bits == 5) words[4] |= (u >> 4 & 0x01010101) << step;
        if (n_bits == 6) words[4 + step / 4] |= (u >> 4 & 0x03030303) << 2 * (step % 4);
    }
#pragma GCC unroll 8
    for (uint32_t i = 0; i < n_bits; i++)
        memcpy(out + 4 * (n_rows * i + row), &words[i], sizeof words[i]);
}

// One row's part of a unit's header; `slot` is the block's place in a unit of two.
PANEL_INLINE void pack_header(int32_t type, uint8_t *header, const struct quant_block *block,
                              uint32_t n_rows, uint32_t row, uint32_t slot)
{
    const struct panel_layout layout = panel_layout_of(type, n_rows);
    const struct quant_form form = quant_form_of(type);
    const uint32_t at = 2 * (n_rows * slot + row);
    memcpy(header + at, &block->d, 2);
    if (form.has_min) memcpy(header + layout.offsets_at + at, &block->dmin, 2);
    if (form.block_values != QUANT_BLOCK_MAX) return;
    for (uint32_t i = 0; i < form.block_values / form.sub_values; i++) {
        header[layout.scales_at + n_rows * i + row] = (uint8_t)block->scale[i];
        if (form.has_min) header[layout.mins_at + n_rows * i + row] = (uint8_t)block->min[i];
    }
}

// Packs n_rows of the panel's `panel_rows` rows; the others become zeros.
PANEL_INLINE void panel_pack(int32_t type, uint8_t *panel, uint32_t panel_rows, const uint8_t *rows,
                             uint32_t n_rows, uint32_t n_cols)
{
    const struct panel_layout layout = panel_layout_of(type, panel_rows);
    const struct quant_form form = quant_form_of(type);
    const size_t row_bytes = (size_t)n_cols / form.block_values * form.block_bytes;
    const uint32_t unit_cols = layout.unit_blocks * PANEL_BLOCK;
    uint8_t *header = panel;
    uint8_t *quants = panel;
    memset(panel, 0, panel_bytes_of(type, panel_rows, n_cols));
    for (uint32_t col = 0; col < n_cols; col += form.block_values, rows += form.block_bytes) {
        if (col % unit_cols == 0) {
            header = quants;
            quants += layout.header_bytes;
        }
        for (uint32_t row = 0; row < n_rows; row++) {
            struct quant_block block;
            quant_unpack(type, rows + row * row_bytes, &block);
            pack_header(type, header, &block, panel_rows, row, col % unit_cols / PANEL_BLOCK);
            for (uint32_t i = 0; i < form.block_values / PANEL_BLOCK; i++)
                pack_quants(type, quants + i * layout.block_bytes, block.u + i * PANEL_BLOCK,
                            panel_rows, row);
        }
        quants += form.block_values / PANEL_BLOCK * layout.block_bytes;
    }
}

#endif
