// Matrix products with AVX2: float weights as in matmul_body.h, quantised weights here.
//
// Activations: a struct x_block for every 32 values, scale = max |x| / 127; blocks with a maximum
// below 1e-36 count as zero. A block with NaN or infinity in it has the scale NaN, so that every
// value made from it is NaN.
//
// Weights lie in panels of 8 rows (matmul_panel.h). Every weight of a block is
// scale * (u - zero) + offset with an unsigned quant u, so a block adds
//     x scale * (scale * (sum u q - zero * sum q) + offset * sum q)
// to a row's value. The sums are exact integers (below 2^24, so also exact as f32): steps of four
// columns are multiplied to pairs in 16 bits by vpmaddubsw, as many steps are added there as cannot
// overflow, and vpmaddwd widens. 8-bit quants are multiplied as |w| and sign(w) * q, because u up
// to 255 would overflow even one pair.
//
// The weights of a block are unpacked once and met by up to QUANT_TOKENS tokens, whose sums wait in
// the first-level cache. Every value is made by the same operations in the same order whatever the
// tile.

#include "cpu/ladder.h"

#include "cpu/x86/matmul_body.h"
#include "cpu/x86/matmul_panel.h"

#include <math.h>

enum {
    ROWS = 8,              // of a panel: lanes of a vector of words
    VECTOR = 4 * ROWS,     // bytes
    QUANT_TOKENS = 32,     // that share unpacked weights
    PREFETCH_BYTES = 4096, // ahead in the panels: a tile takes longer than reordering can look
    X_MAX = 127,           // of |q|
    Q6_HALF_STEPS = 4,     // that share a sub-scale
};

static const float x_least = 1e-36f; // of max |x|: the inverse scale stays finite

struct x_block {
    int8_t q[PANEL_BLOCK];
    float scale;
    float sum;      // of q
    float sum_low;  // of the first 16 q: Q6_K has sub-scales for 16 columns
    float sum_high; // of the others
};
static_assert(sizeof(struct x_block) == 48, "x_block is packed");

// ---- Packing ------------------------------------------------------------------------------------

// An odd number of lines, so that the same columns of many tokens fall into different sets of the
// cache.
static size_t quant_x_row_bytes(uint32_t n_cols)
{
    return round_to_line(n_cols / PANEL_BLOCK * sizeof(struct x_block)) | LINE_BYTES;
}

// Four vectors of words to bytes, in order. Packing works within halves of a vector, so that the
// words of four bytes come out as 0 2 4 6 1 3 5 7 of the order wanted.
SIMD_INLINE void store_bytes(int8_t *out, const __m256i words[4])
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i low = _mm256_packs_epi32(words[0], words[1]);
    const __m256i high = _mm256_packs_epi32(words[2], words[3]);
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
    _mm256_storeu_si256((__m256i *)(void *)out, bytes);
}

// With NaN or infinity in x the quants mean nothing: the scale decides.
static void pack_x_block(struct x_block *block, const float *x)
{
    vec max = vec_zero();
    vec wild = vec_zero();
    __m256i q[PANEL_BLOCK / VEC_LANES];
    for (uint32_t i = 0; i < PANEL_BLOCK; i += VEC_LANES) {
        const vec size = vec_abs(vec_load(x + i));
        wild = _mm256_or_ps(wild, _mm256_cmp_ps(size, vec_set1(INFINITY), _CMP_NLT_UQ));
        max = vec_max(max, size);
    }
    const float most = vec_hmax(max);
    const vec inverse = vec_set1(most >= x_least ? X_MAX / most : 0.0f);
    for (uint32_t i = 0; i < PANEL_BLOCK; i += VEC_LANES)
        q[i / VEC_LANES] = _mm256_cvtps_epi32(vec_mul(vec_load(x + i), inverse));
    store_bytes(block->q, q);
    block->scale = _mm256_movemask_ps(wild) == 0 ? most / X_MAX : NAN;
    block->sum_low = vec_hsum(_mm256_cvtepi32_ps(_mm256_add_epi32(q[0], q[1])));
    block->sum_high = vec_hsum(_mm256_cvtepi32_ps(_mm256_add_epi32(q[2], q[3])));
    block->sum = block->sum_low + block->sum_high;
}

static void quant_pack_x(void *packed, const float *x, uint32_t n_cols)
{
    struct x_block *blocks = packed;
    for (uint32_t i = 0; i < n_cols / PANEL_BLOCK; i++)
        pack_x_block(&blocks[i], x + (size_t)i * PANEL_BLOCK);
}

// ---- Products -----------------------------------------------------------------------------------

// The weights of 32 columns, ready to be met by tokens.
struct weights {
    __m256i u[PANEL_STEPS]; // Q8_0: the signed quants
    vec scale;              // Q6_K: of the first 16 columns
    vec scale_high;         // Q6_K: of the others
    vec offset;             // of types that have one
};

SIMD_INLINE __m256i load_bytes(const uint8_t *p)
{
    return _mm256_load_si256((const __m256i *)(const void *)p);
}

SIMD_INLINE vec load_f16(const uint8_t *p)
{
    return vec_load_type(FATHOM_TYPE_F16, p);
}

SIMD_INLINE vec load_u8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadu_si64(p)));
}

SIMD_INLINE vec load_s8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadu_si64(p)));
}

// Bits `from` .. of each byte to bits 4 .., for constants.
SIMD_INLINE __m256i move_to_bit4(__m256i bytes, uint32_t from, uint32_t n_bits)
{
    const __m256i mask = _mm256_set1_epi8(n_bits == 2 ? 0x30 : 0x10);
    const __m256i moved = from <= 4 ? _mm256_slli_epi16(bytes, (int)(4 - from))
                                    : _mm256_srli_epi16(bytes, (int)(from - 4));
    return _mm256_and_si256(moved, mask);
}

SIMD_INLINE void load_quants(int32_t type, const uint8_t *quants, __m256i *u)
{
    const uint32_t n_bits = quant_form_of(type).n_bits;
    const __m256i nibble = _mm256_set1_epi8(15);
#pragma GCC unroll 8
    for (uint32_t j = 0; j < PANEL_STEPS; j++) {
        if (n_bits == 8) {
            u[j] = _mm256_xor_si256(load_bytes(quants + VECTOR * j), _mm256_set1_epi8(-128));
            continue;
        }
        const __m256i pair = load_bytes(quants + VECTOR * (j / 2));
        u[j] = _mm256_and_si256(j % 2 == 0 ? pair : _mm256_srli_epi16(pair, 4), nibble);
        if (n_bits == 5)
            u[j] = _mm256_or_si256(u[j], move_to_bit4(load_bytes(quants + VECTOR * 4), j, 1));
        if (n_bits == 6) {
            const __m256i upper = load_bytes(quants + VECTOR * (4 + j / 4));
            u[j] = _mm256_or_si256(u[j], move_to_bit4(upper, 2 * (j % 4), 2));
        }
    }
}

// Block `slot` of a unit.
SIMD_INLINE void load_weights(int32_t type, const uint8_t *header, const uint8_t *quants,
                              uint32_t slot, struct weights *w)
{
    const struct quant_form form = quant_form_of(type);
    const struct panel_layout layout = panel_layout_of(type, ROWS);
    load_quants(type, quants, w->u);
    if (form.block_values != QUANT_BLOCK_MAX) {
        w->scale = load_f16(header + 2 * ROWS * slot);
        if (form.has_min) w->offset = load_f16(header + layout.offsets_at + 2 * ROWS * slot);
        return;
    }
    const vec d = load_f16(header);
    const uint8_t *scales = header + layout.scales_at;
    if (type == FATHOM_TYPE_Q6_K) {
        w->scale = vec_mul(d, load_s8(scales + 2 * ROWS * slot));
        w->scale_high = vec_mul(d, load_s8(scales + 2 * ROWS * slot + ROWS));
        return;
    }
    const vec min = load_u8(header + layout.mins_at + ROWS * slot);
    w->scale = vec_mul(d, load_u8(scales + ROWS * slot));
    w->offset = vec_sub(vec_zero(), vec_mul(load_f16(header + layout.offsets_at), min));
}

// Steps whose pairs of products can be added in 16 bits.
SIMD_INLINE uint32_t steps_in_16_bits(uint32_t n_bits)
{
    static_assert(8 * 2 * 15 * X_MAX <= INT16_MAX, "4 bits");
    static_assert(4 * 2 * 31 * X_MAX <= INT16_MAX, "5 bits");
    static_assert(2 * 2 * 63 * X_MAX <= INT16_MAX, "6 bits");
    static_assert(1 * 2 * 128 * X_MAX <= INT16_MAX, "8 bits: absolute values");
    return n_bits == 8 ? 1 : 8 >> (n_bits - 4);
}

// Sums of the products of steps begin .. end - 1, for 8 rows.
SIMD_INLINE vec multiply_steps(int32_t type, const struct weights *w, const struct x_block *x,
                               uint32_t begin, uint32_t end)
{
    const uint32_t n_bits = quant_form_of(type).n_bits;
    const uint32_t n_added = steps_in_16_bits(n_bits);
    __m256i words = _mm256_setzero_si256();
    __m256i halves = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (uint32_t j = begin; j < end; j++) {
        int32_t columns;
        memcpy(&columns, x->q + 4 * j, sizeof columns);
        __m256i q = _mm256_set1_epi32(columns);
        __m256i u = w->u[j];
        if (n_bits == 8) {
            q = _mm256_sign_epi8(q, u);
            u = _mm256_abs_epi8(u);
        }
        const __m256i pairs = _mm256_maddubs_epi16(u, q);
        halves = j % n_added == 0 ? pairs : _mm256_add_epi16(halves, pairs);
        if ((j + 1) % n_added == 0)
            words = _mm256_add_epi32(words, _mm256_madd_epi16(halves, _mm256_set1_epi16(1)));
    }
    return _mm256_cvtepi32_ps(words);
}

// What a block adds, before the scale of x.
SIMD_INLINE vec multiply_block(int32_t type, const struct weights *w, const struct x_block *x)
{
    const struct quant_form form = quant_form_of(type);
    const vec minus_zero = vec_set1(-(float)form.zero);
    if (type == FATHOM_TYPE_Q6_K) {
        vec low = multiply_steps(type, w, x, 0, Q6_HALF_STEPS);
        vec high = multiply_steps(type, w, x, Q6_HALF_STEPS, PANEL_STEPS);
        low = vec_fma(vec_set1(x->sum_low), minus_zero, low);
        high = vec_fma(vec_set1(x->sum_high), minus_zero, high);
        return vec_fma(low, w->scale, vec_mul(high, w->scale_high));
    }
    vec sum = multiply_steps(type, w, x, 0, PANEL_STEPS);
    if (form.has_min) return vec_fma(sum, w->scale, vec_mul(vec_set1(x->sum), w->offset));
    if (type != FATHOM_TYPE_Q8_0) sum = vec_fma(vec_set1(x->sum), minus_zero, sum);
    return vec_mul(sum, w->scale);
}

// The panel of rows `row` and on, and n_tokens tokens.
SIMD_INLINE void run_quant_tile(int32_t type, const struct matmul_args *args, uint32_t row,
                                uint32_t token, uint32_t n_tokens)
{
    const struct panel_layout layout = panel_layout_of(type, ROWS);
    const uint32_t n_blocks = args->n_cols / PANEL_BLOCK;
    const size_t x_bytes = quant_x_row_bytes(args->n_cols);
    const uint8_t *x = (const uint8_t *)args->x + token * x_bytes;
    const uint8_t *at =
        (const uint8_t *)args->panels + row / ROWS * panel_bytes_of(type, ROWS, args->n_cols);
    const uint8_t *header = at;
    vec sums[QUANT_TOKENS];
    for (uint32_t t = 0; t < n_tokens; t++)
        sums[t] = vec_zero();
    for (uint32_t block = 0; block < n_blocks; block++, at += layout.block_bytes) {
        struct weights w;
        if (block % layout.unit_blocks == 0) {
            header = at;
            at += layout.header_bytes;
        }
        for (uint32_t i = 0; i < layout.block_bytes; i += LINE_BYTES)
            _mm_prefetch(at + PREFETCH_BYTES + i, _MM_HINT_T0);
        load_weights(type, header, at, block % layout.unit_blocks, &w);
        for (uint32_t t = 0; t < n_tokens; t++) {
            const struct x_block *xt = (const struct x_block *)(const void *)(x + t * x_bytes);
            const vec part = multiply_block(type, &w, &xt[block]);
            sums[t] = vec_fma(part, vec_set1(xt[block].scale), sums[t]);
        }
    }
    for (uint32_t t = 0; t < n_tokens; t++)
        store_sums(args, row, token + t, sums[t]);
}

// One token meets one panel after the other: a single stream, which the processor follows over the
// end of a panel (tools/peers/README.md has what else was tried). It has a loop of its own so that
// the number of tokens is a constant there.
SIMD_INLINE void run_quant_tiles(int32_t type, const struct matmul_args *args)
{
    for (uint32_t row = 0; args->n_tokens == 1 && row < args->n_rows; row += ROWS)
        run_quant_tile(type, args, row, 0, 1);
    for (uint32_t row = 0; args->n_tokens > 1 && row < args->n_rows; row += ROWS) {
        for (uint32_t token = 0; token < args->n_tokens; token += QUANT_TOKENS) {
            const uint32_t left = args->n_tokens - token;
            run_quant_tile(type, args, row, token, left < QUANT_TOKENS ? left : QUANT_TOKENS);
        }
    }
}

#define MATMUL_QUANT(TYPE)                                                                         \
    static size_t panel_bytes_##TYPE(uint32_t n_cols)                                              \
    {                                                                                              \
        return panel_bytes_of(FATHOM_TYPE_##TYPE, ROWS, n_cols);                                   \
    }                                                                                              \
    static void pack_panel_##TYPE(void *panel, const void *rows, uint32_t n_rows, uint32_t n_cols) \
    {                                                                                              \
        panel_pack(FATHOM_TYPE_##TYPE, panel, ROWS, rows, n_rows, n_cols);                         \
    }                                                                                              \
    static void run_##TYPE(const struct matmul_args *args)                                         \
    {                                                                                              \
        run_quant_tiles(FATHOM_TYPE_##TYPE, args);                                                 \
    }                                                                                              \
    static const struct matmul_kernel kernel_##TYPE = {                                            \
        ROWS, panel_bytes_##TYPE, quant_x_row_bytes, pack_panel_##TYPE, quant_pack_x, run_##TYPE};

MATMUL_QUANT(Q4_0)
MATMUL_QUANT(Q4_1)
MATMUL_QUANT(Q5_0)
MATMUL_QUANT(Q5_1)
MATMUL_QUANT(Q8_0)
MATMUL_QUANT(Q4_K)
MATMUL_QUANT(Q5_K)
MATMUL_QUANT(Q6_K)

void matmul_avx2_fill(struct kernel_table *table)
{
    fill_float(table);
    table->matmul[FATHOM_TYPE_Q4_0] = kernel_Q4_0;
    table->matmul[FATHOM_TYPE_Q4_1] = kernel_Q4_1;
    table->matmul[FATHOM_TYPE_Q5_0] = kernel_Q5_0;
    table->matmul[FATHOM_TYPE_Q5_1] = kernel_Q5_1;
    table->matmul[FATHOM_TYPE_Q8_0] = kernel_Q8_0;
    table->matmul[FATHOM_TYPE_Q4_K] = kernel_Q4_K;
    table->matmul[FATHOM_TYPE_Q5_K] = kernel_Q5_K;
    table->matmul[FATHOM_TYPE_Q6_K] = kernel_Q6_K;
}
