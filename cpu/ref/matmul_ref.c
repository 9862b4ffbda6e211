// Matrix products by definition: dequantise, multiply and sum in double. The one truth that faster
// variants are checked against. Slow and obviously right.
//
// A panel is one row as in the file, padded to 64 bytes; activations are f32, padded likewise.

#include <string.h>

#include "cpu/ladder.h"
#include "cpu/ref/dequant_ref.h"
#include "src/base/mem.h"
#include "src/base/quants.h"

enum {
    CHUNK_COLS = QUANT_BLOCK_MAX, // dequantised at a time: whole blocks of every type
    TILE_TOKENS = 16,             // that share a dequantised chunk
};

static size_t bytes_of_cols(int32_t type, size_t n_cols)
{
    if (type == FATHOM_TYPE_F32) return n_cols * 4;
    if (type == FATHOM_TYPE_F16 || type == FATHOM_TYPE_BF16) return n_cols * 2;
    struct quant_form form = quant_form_of(type);
    return n_cols / form.block_values * form.block_bytes;
}

static size_t x_row_bytes(uint32_t n_cols)
{
    return size_round(n_cols * sizeof(float), MEM_ALIGN_BYTES);
}

static void pack_x(void *packed, const float *x, uint32_t n_cols)
{
    memset(packed, 0, x_row_bytes(n_cols));
    memcpy(packed, x, n_cols * sizeof *x);
}

static size_t panel_bytes(int32_t type, uint32_t n_cols)
{
    return size_round(bytes_of_cols(type, n_cols), MEM_ALIGN_BYTES);
}

static void pack_panel(int32_t type, void *panel, const void *rows, uint32_t n_cols)
{
    memset(panel, 0, panel_bytes(type, n_cols));
    memcpy(panel, rows, bytes_of_cols(type, n_cols));
}

static void run_tile(int32_t type, const struct matmul_args *args, uint32_t row, uint32_t token,
                     uint32_t n_tokens)
{
    const uint8_t *panel = args->panels;
    const float *x[TILE_TOKENS];
    double sums[TILE_TOKENS] = {0};
    panel += row * panel_bytes(type, args->n_cols);
    for (uint32_t t = 0; t < n_tokens; t++)
        x[t] = (const float *)args->x + (token + t) * (x_row_bytes(args->n_cols) / sizeof(float));
    for (uint32_t begin = 0; begin < args->n_cols; begin += CHUNK_COLS) {
        uint32_t n = args->n_cols - begin < CHUNK_COLS ? args->n_cols - begin : CHUNK_COLS;
        float w[CHUNK_COLS];
        dequant_ref_row(type, panel + bytes_of_cols(type, begin), w, n);
        for (uint32_t t = 0; t < n_tokens; t++)
            for (uint32_t i = 0; i < n; i++)
                sums[t] += (double)x[t][begin + i] * (double)w[i];
    }
    for (uint32_t t = 0; t < n_tokens; t++) {
        float *out = args->out + (token + t) * args->out_stride + row;
        double bias = args->bias != NULL ? (double)args->bias[row] : 0.0;
        *out = (float)(sums[t] + bias + (args->accumulate ? (double)*out : 0.0));
    }
}

static void run(int32_t type, const struct matmul_args *args)
{
    for (uint32_t row = 0; row < args->n_rows; row++)
        for (uint32_t token = 0; token < args->n_tokens; token += TILE_TOKENS) {
            uint32_t rest = args->n_tokens - token;
            run_tile(type, args, row, token, rest < TILE_TOKENS ? rest : TILE_TOKENS);
        }
}

// A matmul_kernel is not told its type, so each type has functions of its own.
#define MATMUL_REF(TYPE)                                                                           \
    static size_t panel_bytes_##TYPE(uint32_t n_cols)                                              \
    {                                                                                              \
        return panel_bytes(FATHOM_TYPE_##TYPE, n_cols);                                            \
    }                                                                                              \
    static void pack_panel_##TYPE(void *panel, const void *rows, uint32_t n_rows, uint32_t n_cols) \
    {                                                                                              \
        (void)n_rows; /* always 1 */                                                               \
        pack_panel(FATHOM_TYPE_##TYPE, panel, rows, n_cols);                                       \
    }                                                                                              \
    static void run_##TYPE(const struct matmul_args *args)                                         \
    {                                                                                              \
        run(FATHOM_TYPE_##TYPE, args);                                                             \
    }                                                                                              \
    static const struct matmul_kernel kernel_##TYPE = {                                            \
        1, panel_bytes_##TYPE, x_row_bytes, pack_panel_##TYPE, pack_x, run_##TYPE};

MATMUL_REF(F32)
MATMUL_REF(F16)
MATMUL_REF(BF16)
MATMUL_REF(Q4_0)
MATMUL_REF(Q4_1)
MATMUL_REF(Q5_0)
MATMUL_REF(Q5_1)
MATMUL_REF(Q8_0)
MATMUL_REF(Q4_K)
MATMUL_REF(Q5_K)
MATMUL_REF(Q6_K)

void matmul_ref_fill(struct kernel_table *table)
{
    table->matmul[FATHOM_TYPE_F32] = kernel_F32;
    table->matmul[FATHOM_TYPE_F16] = kernel_F16;
    table->matmul[FATHOM_TYPE_BF16] = kernel_BF16;
    table->matmul[FATHOM_TYPE_Q4_0] = kernel_Q4_0;
    table->matmul[FATHOM_TYPE_Q4_1] = kernel_Q4_1;
    table->matmul[FATHOM_TYPE_Q5_0] = kernel_Q5_0;
    table->matmul[FATHOM_TYPE_Q5_1] = kernel_Q5_1;
    table->matmul[FATHOM_TYPE_Q8_0] = kernel_Q8_0;
    table->matmul[FATHOM_TYPE_Q4_K] = kernel_Q4_K;
    table->matmul[FATHOM_TYPE_Q5_K] = kernel_Q5_K;
    table->matmul[FATHOM_TYPE_Q6_K] = kernel_Q6_K;
}
