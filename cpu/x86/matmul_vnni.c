// Products of quantised weights under AVX-512 VNNI: activations of 15 bits in two halves, exact
// integer dot products over blocks of 32 columns, f32 sums over the blocks in order of columns.
// The second half is hidden behind the memory when one token is decoded, and spares next-token
// distributions the rounding that 8 bits bring (tools/peers/README.md). Forms and packing are in
// matmul_vnni_pack.h.
//
// The weights of 32 columns are unpacked once into 16 registers and met by up to TILE_TOKENS
// tokens, whose sums wait in the first-level cache; each group of 4 activations, once loaded,
// serves both groups of rows. Every value is made by the same operations in the same order whatever
// the tile.

#include "cpu/x86/matmul_vnni_pack.h"

#include "cpu/ladder.h"

enum {
    TILE_TOKENS = 64,        // that share unpacked weights
    TILE_BYTES = 512 * 1024, // of packed activations in a tile: what the second-level cache keeps
    PREFETCH_BYTES = 4096,   // ahead in the panels
    LONE_PANELS = 4,         // that one token meets at once
};

// 32 columns of 16 rows, ready to be met by tokens.
struct weights {
    __m512i u[STEPS];
    __m512 scale[2]; // of the halves of the columns; the second only where sub-scales are of 16
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

// Rows of group `group`, columns of block `block` of a unit.
static ALWAYS_INLINE void unpack_group(const int32_t type, const uint8_t *unit, uint32_t block,
                                       uint32_t group, struct weights *out)
{
    const struct layout layout = layout_of(type);
    const struct quant_form form = quant_form_of(type);
    const uint8_t *quants = unit + layout.header_bytes;
    const uint8_t *scales = unit + layout.scales_at + LANES * group;
    const uint8_t *mins = unit + layout.mins_at + LANES * group;
    unpack_quants(form.n_bits, quants + (GROUPS * block + group) * layout.group_bytes, out->u);
    out->scale[0] = load_halves(unit + 2 * LANES * group);
    if (form.has_min) out->offset = load_halves(unit + layout.offsets_at + 2 * LANES * group);
    if (form.block_values == BLOCK) return;
    if (form.sub_values == BLOCK) {
        out->scale[0] = _mm512_mul_ps(out->scale[0], load_bytes(scales + PANEL_ROWS * block));
    } else {
        __m512 low = load_bytes(scales + PANEL_ROWS * 2 * block);
        __m512 high = load_bytes(scales + PANEL_ROWS * (2 * block + 1));
        out->scale[1] = _mm512_mul_ps(out->scale[0], high);
        out->scale[0] = _mm512_mul_ps(out->scale[0], low);
    }
    if (!form.has_min) return;
    __m512 min = load_bytes(mins + PANEL_ROWS * block);
    out->offset = _mm512_sub_ps(_mm512_setzero_ps(), _mm512_mul_ps(out->offset, min));
}

// Adds the dot products of steps begin .. end with a half of the activations to those of both
// groups.
static ALWAYS_INLINE void dot_steps(const struct weights *w, const int8_t *q, const uint32_t begin,
                                    const uint32_t end, __m512i *dots)
{
#pragma GCC unroll 8
    for (uint32_t j = begin; j < end; j++) {
        int32_t four;
        memcpy(&four, q + 4 * j, sizeof four);
        __m512i x = _mm512_set1_epi32(four);
        dots[0] = _mm512_dpbusd_epi32(dots[0], w[0].u[j], x);
        dots[1] = _mm512_dpbusd_epi32(dots[1], w[1].u[j], x);
    }
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

// Adds the products of steps begin .. end, which have the scales w[].scale[sub], to the sums.
static ALWAYS_INLINE void add_steps(const int32_t type, __m512 *sums, const struct weights *w,
                                    const struct x_block *x, __m512i neg_sum, const uint32_t sub,
                                    const uint32_t begin, const uint32_t end)
{
    const __m512 x_scale = _mm512_set1_ps(x->scale);
    __m512i upper[GROUPS] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    __m512i lower[GROUPS] = {start_at(type, neg_sum), start_at(type, neg_sum)};
    dot_steps(w, x->q[0], begin, end, upper);
    dot_steps(w, x->q[1], begin, end, lower);
    for (uint32_t g = 0; g < GROUPS; g++) {
        // Below 2^28: 32 * 255 * 127 * 128 and 32 * 128 * 127 * 128.
        __m512i dot = _mm512_add_epi32(_mm512_slli_epi32(upper[g], LOWER_BITS), lower[g]);
        __m512 scale = _mm512_mul_ps(w[g].scale[sub], x_scale);
        sums[g] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, sums[g]);
    }
}

// Adds the product of 32 columns and one token to the sums of a panel's rows.
static ALWAYS_INLINE void add_block(const int32_t type, __m512 *sums, const struct weights *w,
                                    const struct x_block *x)
{
    const struct quant_form form = quant_form_of(type);
    const __m512i neg_sum = _mm512_set1_epi32(x->neg_sum);
    if (form.sub_values == BLOCK) {
        add_steps(type, sums, w, x, neg_sum, 0, 0, STEPS);
    } else {
        __m512i neg_low = _mm512_set1_epi32(x->neg_sum_low);
        add_steps(type, sums, w, x, neg_low, 0, 0, STEPS / 2);
        add_steps(type, sums, w, x, _mm512_sub_epi32(neg_sum, neg_low), 1, STEPS / 2, STEPS);
    }
    if (!form.has_min) return;
    __m512 x_sum = _mm512_set1_ps(x->scaled_sum);
    for (uint32_t g = 0; g < GROUPS; g++)
        sums[g] = _mm512_fmadd_ps(w[g].offset, x_sum, sums[g]);
}

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
                for (uint32_t t = 0; t < n_tokens; t++, x += x_bytes)
                    add_block(type, sums[p * n_tokens + t], w, (const struct x_block *)x);
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
    if (tile_tokens < 8) tile_tokens = 8;
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
