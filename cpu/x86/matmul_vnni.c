// Products of quantised weights under AVX-512 VNNI: 8-bit activations, exact integer dot products
// over blocks of 32 columns, f32 sums over the blocks in order of columns.
//
// Activations: a struct x_block for every 32 values, scale = max |x| / 127. A block with NaN or
// infinity in it has the scale NaN, so that every value made from it is NaN.
//
// A panel is 16 rows, in units of 64 columns (types with blocks of 32) or 256 (K types):
//     header: for each of 16 rows, f16 scales and offsets; K types: then their sub-scales and
//             minima, a byte each, 16 rows side by side (see struct layout)
//     quants of each 32 columns: a vector of 64 bytes holds 4 columns (a step) of 16 rows, row
//     after
//             row, unsigned. 8 bit: 8 vectors. Fewer: 4 vectors with step 2i in the low and step
//             2i + 1 in the high nibbles; the fifth bits in one vector, bit j of a byte for step j;
//             or the fifth and sixth in two, bits 2j of a byte for steps j and 4 + j
// An odd number of blocks of 32 leaves the second half of the last header unused.
//
// The weights of a step are unpacked once into registers and met by up to TILE_TOKENS tokens, whose
// sums wait in the first-level cache. Every value is made by the same operations in the same order
// whatever the tile.

#include <immintrin.h>
#include <string.h>

#include "cpu/ladder.h"
#include "cpu/quants.h"

enum {
    PANEL_ROWS = 16,
    BLOCK = 32,       // columns that share an activation scale
    STEPS = 8,        // of 4 columns in a block
    VECTOR = 64,      // bytes
    TILE_TOKENS = 64, // that share unpacked weights
    TILE_BYTES =
        512 * 1024,        // of packed activations in a tile: what stays in the second-level cache
    PREFETCH_BYTES = 4096, // ahead in the panels, while they come from memory
};

#define ALWAYS_INLINE inline __attribute__((always_inline))

struct x_block {
    int8_t q[BLOCK];
    float scale;
    int32_t neg_sum_low; // -(sum of the first 16 q)
    int32_t neg_sum;     // -(sum of q)
    float scaled_sum;    // scale * sum of q
};
_Static_assert(sizeof(struct x_block) == 48, "x_block is packed");

// Where things lie in a unit. All of it folds to constants.
struct layout {
    uint32_t unit_blocks;
    uint32_t block_bytes; // of quants
    uint32_t offsets_at;  // header: f16 offsets, after the f16 scales
    uint32_t scales_at;   // header: sub-scales
    uint32_t mins_at;     // header: minima
    uint32_t header_bytes;
};

static ALWAYS_INLINE struct layout layout_of(int32_t type)
{
    struct quant_form form = quant_form_of(type);
    uint32_t quants = (form.n_bits == 8 ? 8 : form.n_bits) * VECTOR;
    if (type == FATHOM_TYPE_Q6_K) return (struct layout){8, quants, 0, 64, 0, 320};
    if (form.block_values == QUANT_BLOCK_MAX) return (struct layout){8, quants, 32, 64, 192, 320};
    return (struct layout){2, quants, 64, 0, 0, form.has_min ? 128 : 64};
}

static ALWAYS_INLINE size_t bytes_of_panel(int32_t type, uint32_t n_cols)
{
    struct layout layout = layout_of(type);
    size_t n_blocks = n_cols / BLOCK;
    size_t n_units = (n_blocks + layout.unit_blocks - 1) / layout.unit_blocks;
    return n_units * layout.header_bytes + n_blocks * layout.block_bytes;
}

// ---- Packing ------------------------------------------------------------------------------------

// An odd number of cache lines, so that the same columns of many tokens fall into different sets.
static size_t x_row_bytes(uint32_t n_cols)
{
    size_t lines = (n_cols / BLOCK * sizeof(struct x_block) + 63) / 64;
    return (lines | 1) * 64;
}

static void pack_x(void *packed, const float *x, uint32_t n_cols)
{
    struct x_block *block = packed;
    const int special = 0x99; // NaN of either kind, infinity of either sign
    for (uint32_t i = 0; i < n_cols; i += BLOCK, block++) {
        __m512 low = _mm512_loadu_ps(x + i);
        __m512 high = _mm512_loadu_ps(x + i + 16);
        float max = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
        float inverse = max > 0.0f ? 127.0f / max : 0.0f;
        __mmask16 wild =
            _mm512_fpclass_ps_mask(low, special) | _mm512_fpclass_ps_mask(high, special);
        block->scale = max / 127.0f;
        if (inverse > 3e38f) inverse = 3e38f; // max is subnormal: the values become zeros
        if (wild != 0) {
            inverse = 0.0f;
            block->scale = __builtin_nanf("");
        }
        __m512 factor = _mm512_set1_ps(inverse);
        __m512i q_low = _mm512_cvtps_epi32(_mm512_mul_ps(low, factor));
        __m512i q_high = _mm512_cvtps_epi32(_mm512_mul_ps(high, factor));
        _mm_storeu_si128((__m128i *)block->q, _mm512_cvtsepi32_epi8(q_low));
        _mm_storeu_si128((__m128i *)(block->q + 16), _mm512_cvtsepi32_epi8(q_high));
        block->neg_sum_low = -_mm512_reduce_add_epi32(q_low);
        block->neg_sum = -_mm512_reduce_add_epi32(_mm512_add_epi32(q_low, q_high));
        block->scaled_sum = block->scale * (float)-block->neg_sum;
    }
}

// Step `step` of 16 rows: 4 columns of each.
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

// One row's part of a unit's header; `slot` is the block's place in a unit of two.
static ALWAYS_INLINE void pack_header(const int32_t type, uint8_t *header, uint32_t row,
                                      uint32_t slot, const struct quant_block *block)
{
    const struct layout layout = layout_of(type);
    const struct quant_form form = quant_form_of(type);
    memcpy(header + 32 * slot + 2 * row, &block->d, 2);
    if (form.has_min) memcpy(header + layout.offsets_at + 32 * slot + 2 * row, &block->dmin, 2);
    if (form.block_values != QUANT_BLOCK_MAX) return;
    for (uint32_t i = 0; i < form.block_values / form.sub_values; i++) {
        header[layout.scales_at + 16 * i + row] = (uint8_t)block->scale[i];
        if (form.has_min) header[layout.mins_at + 16 * i + row] = (uint8_t)block->min[i];
    }
}

static ALWAYS_INLINE void pack_rows(const int32_t type, void *panel, const uint8_t *rows,
                                    uint32_t n_rows, uint32_t n_cols)
{
    const struct layout layout = layout_of(type);
    const struct quant_form form = quant_form_of(type);
    const size_t row_bytes = (size_t)n_cols / form.block_values * form.block_bytes;
    const uint32_t unit_cols = layout.unit_blocks * BLOCK;
    struct quant_block blocks[PANEL_ROWS];
    uint8_t *header = panel;
    uint8_t *quants = NULL;
    memset(blocks, 0, sizeof blocks);
    for (uint32_t col = 0; col < n_cols; col += form.block_values) {
        if (col % unit_cols == 0) {
            if (col > 0) header = quants;
            memset(header, 0, layout.header_bytes);
            quants = header + layout.header_bytes;
        }
        for (uint32_t r = 0; r < n_rows; r++) {
            quant_unpack(type, rows + r * row_bytes, &blocks[r]);
            pack_header(type, header, r, col % unit_cols / BLOCK, &blocks[r]);
        }
        for (uint32_t i = 0; i < form.block_values; i += BLOCK, quants += layout.block_bytes)
            pack_quants(type, quants, blocks, i);
        rows += form.block_bytes;
    }
}

// ---- Products -----------------------------------------------------------------------------------

// The weights of 32 columns, ready to be met by tokens.
struct weights {
    __m512i u[STEPS];
    __m512 scale[2]; // of the columns' halves; the same unless sub-scales are of 16
    __m512 offset;
};

// 0xf8: a | (b & c)
static ALWAYS_INLINE __m512i merge_bits(__m512i a, __m512i b, __m512i c)
{
    return _mm512_ternarylogic_epi32(a, b, c, 0xf8);
}

// Brings the upper bits of step j to bit 4 of each byte, with others around them.
static ALWAYS_INLINE __m512i upper_bits(const uint32_t n_bits, const uint8_t *quants, uint32_t j)
{
    __m512i bits = _mm512_loadu_si512(quants + VECTOR * (n_bits == 6 ? 4 + j / 4 : 4));
    uint32_t at = n_bits == 6 ? 2 * (j % 4) : j;
    return at <= 4 ? _mm512_slli_epi16(bits, 4 - at) : _mm512_srli_epi16(bits, at - 4);
}

static ALWAYS_INLINE void unpack_quants(const uint32_t n_bits, const uint8_t *quants, __m512i *u)
{
    const __m512i nibble = _mm512_set1_epi8(15);
    const __m512i upper = _mm512_set1_epi8(n_bits == 6 ? 0x30 : 0x10);
#pragma GCC unroll 8
    for (uint32_t j = 0; j < STEPS; j++) {
        __m512i raw = _mm512_loadu_si512(quants + VECTOR * (n_bits == 8 ? j : j / 2));
        u[j] = raw;
        if (n_bits == 8) continue;
        u[j] = _mm512_and_si512(j % 2 == 0 ? raw : _mm512_srli_epi16(raw, 4), nibble);
        if (n_bits > 4) u[j] = merge_bits(u[j], upper_bits(n_bits, quants, j), upper);
    }
}

static ALWAYS_INLINE __m512 load_halves(const uint8_t *at)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at));
}

static ALWAYS_INLINE __m512 load_bytes(const uint8_t *at)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)at)));
}

// Block `slot` of a unit.
static ALWAYS_INLINE void unpack_block(const int32_t type, const uint8_t *header, uint32_t slot,
                                       struct weights *out)
{
    const struct layout layout = layout_of(type);
    const struct quant_form form = quant_form_of(type);
    unpack_quants(form.n_bits, header + layout.header_bytes + slot * layout.block_bytes, out->u);
    if (form.block_values == BLOCK) {
        out->scale[0] = load_halves(header + 32 * slot);
        if (form.has_min) out->offset = load_halves(header + layout.offsets_at + 32 * slot);
        return;
    }
    const uint8_t *scales = header + layout.scales_at;
    __m512 d = load_halves(header);
    if (form.sub_values == BLOCK) {
        out->scale[0] = _mm512_mul_ps(d, load_bytes(scales + 16 * slot));
    } else {
        out->scale[0] = _mm512_mul_ps(d, load_bytes(scales + 32 * slot));
        out->scale[1] = _mm512_mul_ps(d, load_bytes(scales + 32 * slot + 16));
    }
    if (!form.has_min) return;
    __m512 dmin = load_halves(header + layout.offsets_at);
    __m512 min = load_bytes(header + layout.mins_at + 16 * slot);
    out->offset = _mm512_sub_ps(_mm512_setzero_ps(), _mm512_mul_ps(dmin, min));
}

static ALWAYS_INLINE __m512i dot_steps(__m512i sum, const __m512i *u, const int8_t *q,
                                       const uint32_t n_steps)
{
#pragma GCC unroll 8
    for (uint32_t j = 0; j < n_steps; j++) {
        int32_t four;
        memcpy(&four, q + 4 * j, sizeof four);
        sum = _mm512_dpbusd_epi32(sum, u[j], _mm512_set1_epi32(four));
    }
    return sum;
}

// -zero * sum of q: what makes the dot product one with u - zero.
static ALWAYS_INLINE __m512i start_at(const int32_t type, __m512i neg_sum)
{
    switch (quant_form_of(type).zero) {
    case 8:
        return _mm512_slli_epi32(neg_sum, 3);
    case 16:
        return _mm512_slli_epi32(neg_sum, 4);
    case 32:
        return _mm512_slli_epi32(neg_sum, 5);
    case 128:
        return _mm512_slli_epi32(neg_sum, 7);
    default:
        return _mm512_setzero_si512();
    }
}

static ALWAYS_INLINE __m512 add_scaled(__m512 sum, __m512i dot, __m512 w_scale, __m512 x_scale)
{
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(w_scale, x_scale), sum);
}

// Adds the product of one block and one token to the sums of 16 rows.
static ALWAYS_INLINE __m512 add_block(const int32_t type, __m512 sum, const struct weights *w,
                                      const struct x_block *x)
{
    const struct quant_form form = quant_form_of(type);
    const __m512i neg_sum = _mm512_set1_epi32(x->neg_sum);
    const __m512 x_scale = _mm512_set1_ps(x->scale);
    if (form.sub_values == 16) {
        __m512i neg_low = _mm512_set1_epi32(x->neg_sum_low);
        __m512i neg_high = _mm512_sub_epi32(neg_sum, neg_low);
        __m512i low = dot_steps(start_at(type, neg_low), w->u, x->q, 4);
        __m512i high = dot_steps(start_at(type, neg_high), w->u + 4, x->q + 16, 4);
        sum = add_scaled(sum, low, w->scale[0], x_scale);
        return add_scaled(sum, high, w->scale[1], x_scale);
    }
    __m512i dot = dot_steps(start_at(type, neg_sum), w->u, x->q, STEPS);
    sum = add_scaled(sum, dot, w->scale[0], x_scale);
    if (form.has_min) sum = _mm512_fmadd_ps(w->offset, _mm512_set1_ps(x->scaled_sum), sum);
    return sum;
}

// The tokens of a tile, and the sums that wait for the next columns.
struct tile {
    const uint8_t *x;
    size_t x_stride_bytes;
    uint32_t n_tokens;
    float sums[TILE_TOKENS][PANEL_ROWS] __attribute__((aligned(64)));
};

// n_blocks (1 or 2) blocks of a unit from `slot` on; `at` is the first one's place in the row.
static ALWAYS_INLINE void add_blocks(const int32_t type, struct tile *tile, const uint8_t *header,
                                     uint32_t slot, size_t at, const uint32_t n_blocks)
{
    struct weights w[2];
    for (uint32_t i = 0; i < n_blocks; i++)
        unpack_block(type, header, slot + i, &w[i]);
    const uint8_t *x = tile->x + at * sizeof(struct x_block);
    for (uint32_t t = 0; t < tile->n_tokens; t++, x += tile->x_stride_bytes) {
        const struct x_block *blocks = (const struct x_block *)x;
        __m512 sum = _mm512_load_ps(tile->sums[t]);
        for (uint32_t i = 0; i < n_blocks; i++)
            sum = add_block(type, sum, &w[i], &blocks[i]);
        _mm512_store_ps(tile->sums[t], sum);
    }
}

static ALWAYS_INLINE void prefetch_bytes(const uint8_t *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += VECTOR)
        _mm_prefetch((const char *)at + i, _MM_HINT_T0);
}

static void store_tile(const struct tile *tile, const struct matmul_args *args, uint32_t row,
                       uint32_t token)
{
    uint32_t rest = args->n_rows - row;
    __mmask16 mask = (__mmask16)(rest < PANEL_ROWS ? (1u << rest) - 1 : 0xffff);
    __m512 bias = _mm512_setzero_ps();
    if (args->bias != NULL) bias = _mm512_maskz_loadu_ps(mask, args->bias + row);
    for (uint32_t t = 0; t < tile->n_tokens; t++) {
        float *out = args->out + (token + t) * args->out_stride + row;
        __m512 sum = _mm512_add_ps(_mm512_load_ps(tile->sums[t]), bias);
        if (args->accumulate) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, out));
        _mm512_mask_storeu_ps(out, mask, sum);
    }
}

static ALWAYS_INLINE void run_panel(const int32_t type, struct tile *tile, const uint8_t *panel,
                                    uint32_t n_cols)
{
    const struct layout layout = layout_of(type);
    const size_t n_blocks = n_cols / BLOCK;
    const size_t unit_bytes = layout.header_bytes + layout.unit_blocks * layout.block_bytes;
    memset(tile->sums, 0, tile->n_tokens * sizeof tile->sums[0]);
    size_t at = 0;
    for (; at + layout.unit_blocks <= n_blocks; at += layout.unit_blocks, panel += unit_bytes) {
        prefetch_bytes(panel + PREFETCH_BYTES, unit_bytes);
        for (uint32_t slot = 0; slot < layout.unit_blocks; slot += 2)
            add_blocks(type, tile, panel, slot, at + slot, 2);
    }
    if (at < n_blocks) add_blocks(type, tile, panel, 0, at, 1);
}

static ALWAYS_INLINE void run(const int32_t type, const struct matmul_args *args)
{
    const size_t panel_bytes = bytes_of_panel(type, args->n_cols);
    const size_t x_bytes = x_row_bytes(args->n_cols);
    size_t tile_tokens = TILE_BYTES / x_bytes;
    if (tile_tokens > TILE_TOKENS) tile_tokens = TILE_TOKENS;
    if (tile_tokens < 8) tile_tokens = 8;
    struct tile tile = {.x_stride_bytes = x_bytes};
    for (uint32_t token = 0; token < args->n_tokens; token += tile.n_tokens) {
        const uint8_t *panel = args->panels;
        uint32_t rest = args->n_tokens - token;
        tile.n_tokens = rest < tile_tokens ? rest : (uint32_t)tile_tokens;
        tile.x = (const uint8_t *)args->x + token * x_bytes;
        for (uint32_t row = 0; row < args->n_rows; row += PANEL_ROWS, panel += panel_bytes) {
            run_panel(type, &tile, panel, args->n_cols);
            store_tile(&tile, args, row, token);
        }
    }
}

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
