// How the VNNI kernels hold quantised weights and activations, and how they are brought there.
//
// Activations: a struct x_block for every 32 values, each scale * (128 q[0] + q[1]), scale = max
// |x| / (127 * 128): the upper and the lower half of 15 bits. Blocks with a maximum below 1e-34
// count as zero. A block with NaN or infinity in it has zeros and the scale NaN, so that every
// value made from it is NaN.
//
// A panel is 32 rows, two groups of 16 lanes, in units of one block of the type (32 columns, or 256
// of the K types). A unit is a header and then quants.
//     Header: f16 scales of the 32 rows, f16 offsets likewise; K types: then sub-scales and minima,
//     those of the 32 rows side by side, one byte each (see struct layout).
//     Quants: for each 32 columns the first group of rows, then the second. A vector of 64 bytes
//     holds 4 columns (a step) of 16 rows, row after row, unsigned. 8 bits: 8 vectors. Fewer: 4
//     vectors with step 2i in the low and step 2i + 1 in the high nibbles, then the fifth bits in
//     one vector, bit j of a byte for step j; or the fifth and sixth bits in two, bits 2j and
//     2j + 1 of a byte for steps j and 4 + j.

#ifndef FATHOM_CPU_X86_MATMUL_VNNI_PACK_H
#define FATHOM_CPU_X86_MATMUL_VNNI_PACK_H

#include <immintrin.h>
#include <string.h>

#include "src/base/quants.h"

enum {
    LANES = 16, // rows in a vector
    GROUPS = 2, // vectors of rows in a panel
    PANEL_ROWS = GROUPS * LANES,
    BLOCK = 32,       // columns that share an activation scale
    STEPS = 8,        // of 4 columns in a block
    VECTOR = 64,      // bytes
    WILD = 0x99,      // classes of numbers: NaN of either kind, infinity of either sign
    HALVES = 2,       // of an activation
    LOWER_BITS = 7,   // of its lower half, which is -64 .. 63
    X_MAX = 127 << 7, // of an activation's size
};

#define ALWAYS_INLINE inline __attribute__((always_inline))

static const float x_least = 1e-34f; // of max |x|: the inverse scale stays finite

struct x_block {
    int8_t q[HALVES][BLOCK];
    float scale;
    int32_t neg_sum_low; // -(sum of the first 16, both halves)
    int32_t neg_sum;     // -(sum of all)
    float scaled_sum;    // scale * sum of all
};
_Static_assert(sizeof(struct x_block) == 80, "x_block is packed");

// Where things lie in a unit. All of it folds to constants.
struct layout {
    uint32_t n_blocks;    // of 32 columns
    uint32_t group_bytes; // of quants: 32 columns of 16 rows
    uint32_t offsets_at;  // header: f16 offsets
    uint32_t scales_at;   // header: sub-scales
    uint32_t mins_at;     // header: minima
    uint32_t header_bytes;
    uint32_t unit_bytes;
};

static ALWAYS_INLINE struct layout layout_of(const int32_t type)
{
    const struct quant_form form = quant_form_of(type);
    const uint32_t n_subs =
        form.block_values == QUANT_BLOCK_MAX ? QUANT_BLOCK_MAX / form.sub_values : 0;
    struct layout out = {.n_blocks = form.block_values / BLOCK,
                         .group_bytes = form.n_bits * VECTOR};
    out.offsets_at = 2 * PANEL_ROWS;
    out.scales_at = out.offsets_at + (form.has_min ? 2 * PANEL_ROWS : 0);
    out.mins_at = out.scales_at + n_subs * PANEL_ROWS;
    out.header_bytes = out.mins_at + (form.has_min ? n_subs * PANEL_ROWS : 0);
    out.unit_bytes = out.header_bytes + out.n_blocks * GROUPS * out.group_bytes;
    return out;
}

static ALWAYS_INLINE size_t bytes_of_panel(const int32_t type, uint32_t n_cols)
{
    return (size_t)n_cols / quant_form_of(type).block_values * layout_of(type).unit_bytes;
}

// An odd number of cache lines, so that the same columns of many tokens fall into different sets.
static inline size_t x_row_bytes(uint32_t n_cols)
{
    size_t lines = (n_cols / BLOCK * sizeof(struct x_block) + 63) / 64;
    return (lines | 1) * 64;
}

// The halves of 16 activations.
static ALWAYS_INLINE void store_halves(struct x_block *block, uint32_t at, __m512i q)
{
    const __m512i half = _mm512_set1_epi32(1 << (LOWER_BITS - 1));
    const __m512i upper = _mm512_srai_epi32(_mm512_add_epi32(q, half), LOWER_BITS);
    const __m512i lower = _mm512_sub_epi32(q, _mm512_slli_epi32(upper, LOWER_BITS));
    _mm_storeu_si128((__m128i *)(block->q[0] + at), _mm512_cvtepi32_epi8(upper));
    _mm_storeu_si128((__m128i *)(block->q[1] + at), _mm512_cvtepi32_epi8(lower));
}

static inline void pack_x(void *packed, const float *x, uint32_t n_cols)
{
    struct x_block *block = packed;
    for (uint32_t i = 0; i < n_cols; i += BLOCK, block++) {
        __m512 low = _mm512_loadu_ps(x + i);
        __m512 high = _mm512_loadu_ps(x + i + 16);
        float max = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
        float inverse = max >= x_least ? X_MAX / max : 0.0f;
        __mmask16 wild = _mm512_fpclass_ps_mask(low, WILD) | _mm512_fpclass_ps_mask(high, WILD);
        __mmask16 kept = wild == 0 ? 0xffff : 0;
        block->scale = wild == 0 ? max / X_MAX : __builtin_nanf("");
        __m512 factor = _mm512_set1_ps(inverse);
        __m512i q_low = _mm512_maskz_cvtps_epi32(kept, _mm512_mul_ps(low, factor));
        __m512i q_high = _mm512_maskz_cvtps_epi32(kept, _mm512_mul_ps(high, factor));
        store_halves(block, 0, q_low);
        store_halves(block, 16, q_high);
        block->neg_sum_low = -_mm512_reduce_add_epi32(q_low);
        block->neg_sum = -_mm512_reduce_add_epi32(_mm512_add_epi32(q_low, q_high));
        block->scaled_sum = block->scale * (float)-block->neg_sum;
    }
}

// Four columns of 16 rows.
static ALWAYS_INLINE __m512i gather_step(const struct quant_block *rows, uint32_t col)
{
    __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512i at = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(sizeof(struct quant_block)));
    return _mm512_i32gather_epi32(at, rows[0].u + col, 1);
}

// The quants of 32 columns of 16 rows.
static ALWAYS_INLINE void pack_quants(const int32_t type, uint8_t *out,
                                      const struct quant_block *rows, uint32_t col)
{
    const uint32_t n_bits = quant_form_of(type).n_bits;
    const __m512i nibble = _mm512_set1_epi8(15);
    const __m512i upper = _mm512_set1_epi8(n_bits == 6 ? 3 : 1);
    __m512i extra[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    __m512i even = _mm512_setzero_si512();
    for (uint32_t j = 0; j < STEPS; j++) {
        __m512i u = gather_step(rows, col + 4 * j);
        if (n_bits == 8) {
            _mm512_storeu_si512(out + VECTOR * j, u);
            continue;
        }
        __m512i low = _mm512_and_si512(u, nibble);
        __m512i bits = _mm512_and_si512(_mm512_srli_epi16(u, 4), upper);
        uint32_t shift = n_bits == 6 ? 2 * (j % 4) : j;
        __m512i *into = &extra[n_bits == 6 ? j / 4 : 0];
        *into = _mm512_or_si512(*into, _mm512_slli_epi16(bits, shift));
        if (j % 2 == 0)
            even = low;
        else
            _mm512_storeu_si512(out + VECTOR * (j / 2),
                                _mm512_or_si512(even, _mm512_slli_epi16(low, 4)));
    }
    if (n_bits == 5 || n_bits == 6) _mm512_storeu_si512(out + 4 * VECTOR, extra[0]);
    if (n_bits == 6) _mm512_storeu_si512(out + 5 * VECTOR, extra[1]);
}

// One row's part of a unit's header.
static ALWAYS_INLINE void pack_header(const int32_t type, uint8_t *header, uint32_t row,
                                      const struct quant_block *block)
{
    const struct layout layout = layout_of(type);
    const struct quant_form form = quant_form_of(type);
    memcpy(header + 2 * row, &block->d, 2);
    if (form.has_min) memcpy(header + layout.offsets_at + 2 * row, &block->dmin, 2);
    if (form.block_values == BLOCK) return;
    for (uint32_t i = 0; i < form.block_values / form.sub_values; i++) {
        header[layout.scales_at + PANEL_ROWS * i + row] = (uint8_t)block->scale[i];
        if (form.has_min) header[layout.mins_at + PANEL_ROWS * i + row] = (uint8_t)block->min[i];
    }
}

static ALWAYS_INLINE void pack_rows(const int32_t type, void *panel, const uint8_t *rows,
                                    uint32_t n_rows, uint32_t n_cols)
{
    const struct layout layout = layout_of(type);
    const struct quant_form form = quant_form_of(type);
    const size_t row_bytes = (size_t)n_cols / form.block_values * form.block_bytes;
    struct quant_block blocks[PANEL_ROWS];
    uint8_t *unit = panel;
    memset(blocks, 0, sizeof blocks);
    for (uint32_t col = 0; col < n_cols; col += form.block_values, unit += layout.unit_bytes) {
        uint8_t *quants = unit + layout.header_bytes;
        memset(unit, 0, layout.header_bytes);
        for (uint32_t r = 0; r < n_rows; r++) {
            quant_unpack(type, rows + r * row_bytes, &blocks[r]);
            pack_header(type, unit, r, &blocks[r]);
        }
        rows += form.block_bytes;
        for (uint32_t i = 0; i < form.block_values; i += BLOCK)
            for (uint32_t r = 0; r < PANEL_ROWS; r += LANES, quants += layout.group_bytes)
                pack_quants(type, quants, blocks + r, i);
    }
}

#endif
