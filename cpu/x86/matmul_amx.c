// Products of quantised weights and many tokens under AMX: the algorithm of matmul_vnni_body.h, its
// forms and packing, and its results to the bit. Fewer than 16 tokens, and those that are left over
// by tiles of 16, go the way of VNNI; so does Q6_K, whose sub-scales of 16 columns would take twice
// as many products of tiles, half of each idle.
//
// A vector of 4 columns of 16 rows is a row of a tile of weights, and the blocks of 16 tokens at
// the same columns are the rows of a tile of activations, as they lie in memory. A product of tiles
// takes 32 columns, which share a scale, and gives the dot products of 16 tokens and 16 rows, which
// the vector unit scales and sums while the next product is made.

#include "cpu/ladder.h"

#include "cpu/x86/matmul_vnni_tile.h"

enum {
    TILE_LANES = 16, // tokens of a tile
    AHEAD = 3,       // blocks of a token that are prefetched
};

// What ldtilecfg reads.
struct tile_config {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t n_rows[16];
};
_Static_assert(sizeof(struct tile_config) == 64, "tile_config is packed");

// Tiles 0 .. 3 hold dot products, of either half of the activations those of either group of rows;
// 4 and 5 the weights of the groups; 6 and 7 the halves of the activations.
static const struct tile_config config = {
    .palette = 1,
    .row_bytes = {VECTOR, VECTOR, VECTOR, VECTOR, VECTOR, VECTOR, BLOCK, BLOCK},
    .n_rows = {16, 16, 16, 16, STEPS, STEPS, 16, 16},
};

// The weights as the tiles take them: signed, so that no sum of activations corrects the products.
static ALWAYS_INLINE void store_quants(const int32_t type, int8_t (*quants)[STEPS][VECTOR],
                                       const struct weights *w)
{
    const __m512i zero = _mm512_set1_epi8((char)quant_form_of(type).zero);
    for (uint32_t g = 0; g < GROUPS; g++)
        for (uint32_t j = 0; j < STEPS; j++)
            _mm512_store_si512(quants[g][j], _mm512_sub_epi8(w[g].u[j], zero));
    // The tile loads of gcc 12 do not say that they read memory.
    __asm__ volatile("" : : "r"(quants) : "memory");
}

// Begins the products of 16 tokens: tiles 0 .. 3.
static ALWAYS_INLINE void multiply_tiles(const uint8_t *x, size_t x_bytes)
{
    const struct x_block *block = (const struct x_block *)x;
    _tile_loadd(6, block->q[0], x_bytes);
    _tile_loadd(7, block->q[1], x_bytes);
    _tile_zero(0);
    _tile_dpbssd(0, 6, 4);
    _tile_zero(1);
    _tile_dpbssd(1, 6, 5);
    _tile_zero(2);
    _tile_dpbssd(2, 7, 4);
    _tile_zero(3);
    _tile_dpbssd(3, 7, 5);
}

// Of one token and the rows of a panel.
typedef int32_t token_dots[HALVES][GROUPS][LANES];

static ALWAYS_INLINE void store_dots(token_dots *dots)
{
    _tile_stored(0, dots[0][0][0], sizeof *dots);
    _tile_stored(1, dots[0][0][1], sizeof *dots);
    _tile_stored(2, dots[0][1][0], sizeof *dots);
    _tile_stored(3, dots[0][1][1], sizeof *dots);
}

// Scales the dot products of 16 tokens and adds them to the sums, as add_steps does.
static ALWAYS_INLINE void add_tile(const int32_t type, __m512 (*sums)[GROUPS],
                                   const struct weights *w, const uint8_t *x, size_t x_bytes,
                                   token_dots *dots)
{
    for (uint32_t t = 0; t < TILE_LANES; t++, x += x_bytes) {
        const struct x_block *block = (const struct x_block *)x;
        const __m512 x_scale = _mm512_set1_ps(block->scale);
        for (uint32_t g = 0; g < GROUPS; g++) {
            __m512i upper = _mm512_load_si512(dots[t][0][g]);
            __m512i lower = _mm512_load_si512(dots[t][1][g]);
            sums[t][g] = add_dots(sums[t][g], upper, lower, w[g].scale[0], x_scale);
        }
        add_offsets(type, sums[t], w, GROUPS, block);
        _mm_prefetch((const char *)(block + AHEAD), _MM_HINT_T0);
    }
}

// n_tokens is a multiple of 16, not 0. By turns dot products of 16 tokens are stored, those of the
// next begun, and those of the last added, which hides how long the first two take.
static ALWAYS_INLINE void add_tiles(const int32_t type, __m512 (*sums)[GROUPS],
                                    const struct weights *w, int8_t (*quants)[STEPS][VECTOR],
                                    const uint8_t *x, size_t x_bytes, uint32_t n_tokens)
{
    const size_t tile_bytes = TILE_LANES * x_bytes;
    _Alignas(VECTOR) token_dots dots[2][TILE_LANES];
    _tile_loadd(4, quants[0], VECTOR);
    _tile_loadd(5, quants[1], VECTOR);
    multiply_tiles(x, x_bytes);
    for (uint32_t i = 0; i <= n_tokens / TILE_LANES; i++) {
        const uint32_t t = i * TILE_LANES;
        if (t < n_tokens) store_dots(dots[i % 2]);
        if (t + TILE_LANES < n_tokens) multiply_tiles(x + (i + 1) * tile_bytes, x_bytes);
        if (t == 0) continue;
        add_tile(type, sums + t - TILE_LANES, w, x + (i - 1) * tile_bytes, x_bytes,
                 dots[(i - 1) % 2]);
    }
}

static ALWAYS_INLINE void add_blocks(const int32_t type, __m512 (*sums)[GROUPS],
                                     const struct weights *w, const uint8_t *x, size_t x_bytes,
                                     uint32_t n_tokens)
{
    const uint32_t n_tiled = n_tokens / TILE_LANES * TILE_LANES;
    if (n_tiled > 0) {
        _Alignas(VECTOR) int8_t quants[GROUPS][STEPS][VECTOR];
        store_quants(type, quants, w);
        add_tiles(type, sums, w, quants, x, x_bytes, n_tiled);
    }
    for (uint32_t t = n_tiled; t < n_tokens; t++)
        add_block(type, sums[t], w, GROUPS, (const struct x_block *)(x + t * x_bytes));
}

#include "cpu/x86/matmul_vnni_body.h"

// The configuration is static since gcc 12 holds that ldtilecfg reads but 8 bytes.
static ALWAYS_INLINE void run_configured(const int32_t type, const struct matmul_args *args)
{
    const bool has_tiles = args->n_tokens >= TILE_LANES;
    if (has_tiles) _tile_loadconfig(&config);
    run(type, args);
    if (has_tiles) _tile_release();
}

#define MATMUL_AMX(TYPE)                                                                           \
    static void run_##TYPE(const struct matmul_args *args)                                         \
    {                                                                                              \
        run_configured(FATHOM_TYPE_##TYPE, args);                                                  \
    }

MATMUL_AMX(Q4_0)
MATMUL_AMX(Q4_1)
MATMUL_AMX(Q5_0)
MATMUL_AMX(Q5_1)
MATMUL_AMX(Q8_0)
MATMUL_AMX(Q4_K)
MATMUL_AMX(Q5_K)

void matmul_amx_fill(struct kernel_table *table)
{
    table->matmul[FATHOM_TYPE_Q4_0].run = run_Q4_0;
    table->matmul[FATHOM_TYPE_Q4_1].run = run_Q4_1;
    table->matmul[FATHOM_TYPE_Q5_0].run = run_Q5_0;
    table->matmul[FATHOM_TYPE_Q5_1].run = run_Q5_1;
    table->matmul[FATHOM_TYPE_Q8_0].run = run_Q8_0;
    table->matmul[FATHOM_TYPE_Q4_K].run = run_Q4_K;
    table->matmul[FATHOM_TYPE_Q5_K].run = run_Q5_K;
}
