// Rows of weights as floats, and conversion, on the device against the reference: to the bit, but
// for the bits of a NaN.

#include "tests/gpu/gpu_rig.h"

#include <math.h>

#include "cpu/cpu_kernels.h"
#include "gpu/gpu_grid.h"
#include "gpu/product_cuda.h"
#include "gpu/product_rows.h"
#include "src/base/dtype.h"
#include "src/base/half.h"
#include "src/base/quants.h"
#include "src/base/rng.h"

enum { SEED = 31, ROWS = 5, COLS_MAX = 768, IDS = 7 };
static const int32_t out_types[] = {FATHOM_TYPE_F32, FATHOM_TYPE_F16, FATHOM_TYPE_BF16};

// value i of what a launch wrote, and of what the reference has, in the type of the output.
static void check_value(const char *what, int32_t type, const void *got, size_t i, float want)
{
    const uint16_t *halves = got;
    float value, wanted = want;
    if (type == FATHOM_TYPE_F32) {
        value = ((const float *)got)[i];
    } else if (type == FATHOM_TYPE_F16) {
        value = half_to_float(halves[i]);
        wanted = half_to_float(half_from_float(want));
    } else {
        value = bf16_to_float(halves[i]);
        wanted = bf16_to_float(bf16_from_float(want));
    }
    if (isnan(value) && isnan(wanted)) return;
    if (memcmp(&value, &wanted, sizeof value) != 0)
        fail_msg("%s to type %d: [%zu] is %.9g, not %.9g", what, type, i, (double)value,
                 (double)wanted);
}

// ---- Rows ---------------------------------------------------------------------------------------

// Any bits: NaN and infinities among them, in floats and in scales; but not in all rows of quants.
static void fill_rows(int32_t type, uint32_t n_cols, uint8_t *rows, struct rng *rng)
{
    const struct quant_form form = quant_form_of(type);
    const size_t row_bytes = dtype_row_bytes(type, n_cols);
    for (size_t i = 0; i < ROWS * row_bytes; i++)
        rows[i] = (uint8_t)rng_u64(rng);
    for (size_t i = row_bytes; form.block_values > 0 && i < ROWS * row_bytes;
         i += form.block_bytes) {
        rows[i + (type == FATHOM_TYPE_Q6_K ? 209 : 1)] &= 0xbf;
        if (form.has_min) rows[i + 3] &= 0xbf;
    }
}

static void check_rows(const struct dtype *dtype, uint32_t n_cols, int32_t out_type,
                       const int32_t *ids, struct rng *rng)
{
    static uint8_t rows[ROWS * COLS_MAX * 4], packed[ROWS * (COLS_MAX * 4 + 48)];
    static float want[COLS_MAX], got[IDS * COLS_MAX];
    const struct product_layout layout = product_layout_of(dtype->type, n_cols);
    const size_t n_rows = ids != NULL ? IDS : ROWS;
    const size_t bytes = n_rows * n_cols * (out_type == FATHOM_TYPE_F32 ? 4 : 2);
    struct kernel_table table;
    cpu_kernels_init(&table, 0);
    fill_rows(dtype->type, n_cols, rows, rng);
    product_pack_rows(dtype->type, n_cols, rows, ROWS, packed);
    uint8_t *dev_weight = gpu_put(packed, ROWS * layout.row_bytes);
    int32_t *dev_ids = ids != NULL ? gpu_put(ids, IDS * sizeof *ids) : NULL;
    const struct dequant_args args = {dev_weight, dev_ids,     gpu_new(bytes), n_rows,
                                      n_cols,     dtype->type, out_type};
    gpu_ok(dequant_cuda(&args, NULL));
    gpu_take(got, args.out, bytes);
    gpu_ok(cudaFree(dev_weight));
    gpu_ok(cudaFree(dev_ids));
    for (size_t r = 0; r < n_rows; r++) {
        const size_t row = ids != NULL ? (size_t)ids[r] : r;
        table.dequant_row(dtype->type, rows + row * dtype_row_bytes(dtype->type, n_cols), want,
                          n_cols);
        for (uint32_t c = 0; c < n_cols; c++)
            check_value(dtype->name, out_type, got, r * n_cols + c, want[c]);
    }
}

static void run_dequant(void)
{
    static const uint32_t cols[] = {1, 3, 8, 32, 100, 256, COLS_MAX};
    static const int32_t ids[IDS] = {4, 0, 0, 3, 1, 2, 4};
    size_t n_types;
    const struct dtype *types = dtype_all(&n_types);
    struct rng rng;
    rng_init(&rng, SEED);
    for (size_t i = 0; i < n_types; i++)
        for (size_t j = 0; j < sizeof cols / sizeof cols[0]; j++)
            for (size_t k = 0; k < 2 * sizeof out_types / sizeof out_types[0]; k++)
                if (cols[j] % types[i].block_values == 0)
                    check_rows(&types[i], cols[j], out_types[k / 2], k % 2 == 0 ? NULL : ids, &rng);
}

static void run_refused(void)
{
    const struct dequant_args good = {.n_cols = 32, .type = FATHOM_TYPE_Q8_0};
    struct dequant_args bad[] = {good, good, good};
    bad[0].type = 5;
    bad[1].out_type = FATHOM_TYPE_Q8_0;
    bad[2].n_cols = 0;
    gpu_ok(dequant_cuda(&good, NULL)); // no rows
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(dequant_cuda(&bad[i], NULL), cudaErrorInvalidValue);
    gpu_ok(convert_cuda(FATHOM_TYPE_F16, NULL, NULL, 0, NULL));
    assert_int_equal(convert_cuda(FATHOM_TYPE_F32, NULL, NULL, 1, NULL), cudaErrorInvalidValue);
}

// ---- Conversion ---------------------------------------------------------------------------------

static void run_convert(void)
{
    static const float specials[] = {0,        -0.0f,    INFINITY, -INFINITY, NAN,
                                     65504,    65519.9f, 65520,    3.4e38f,   1e-8f,
                                     5.97e-8f, 2.98e-8f, 1e-40f,   1.00195f,  -2.5e-5f};
    enum { SPECIALS = sizeof specials / sizeof specials[0], N = 777 };
    static float x[N];
    static uint16_t got[N];
    struct rng rng;
    rng_init(&rng, SEED);
    memcpy(x, specials, sizeof specials);
    for (size_t i = SPECIALS; i < N; i++) { // any bits
        const uint32_t bits = (uint32_t)rng_u64(&rng);
        memcpy(x + i, &bits, sizeof bits);
    }
    float *dev_x = gpu_put(x, sizeof x);
    for (size_t k = 1; k < sizeof out_types / sizeof out_types[0]; k++) {
        uint16_t *dev_out = gpu_new(sizeof got);
        gpu_ok(convert_cuda(out_types[k], dev_x, dev_out, N, NULL));
        gpu_take(got, dev_out, sizeof got);
        for (size_t i = 0; i < N; i++)
            check_value("convert", out_types[k], got, i, x[i]);
    }
    gpu_ok(cudaFree(dev_x));
}

// More values than the largest grid has threads for eight of.
static void test_dequant_strides(void **state)
{
    (void)state;
    const size_t n_rows = gpu_grid_values(SIZE_MAX).blocks[0] * (size_t)GPU_VALUE_THREADS + 10;
    const size_t row_bytes = product_layout_of(FATHOM_TYPE_F16, 1).row_bytes;
    uint8_t *rows = calloc(n_rows, row_bytes);
    uint16_t *got = malloc(n_rows * sizeof *got);
    assert_true(rows != NULL && got != NULL);
    for (size_t r = 0; r < n_rows; r++)
        memcpy(rows + r * row_bytes, (uint16_t[]){(uint16_t)(r % 0x7c00)}, sizeof(uint16_t));
    emu_begin(&emu_modes[0]);
    uint8_t *dev_rows = gpu_put(rows, n_rows * row_bytes);
    const struct dequant_args args = {
        .weight = dev_rows,
        .out = gpu_new(n_rows * sizeof *got),
        .n_rows = n_rows,
        .n_cols = 1,
        .type = FATHOM_TYPE_F16,
        .out_type = FATHOM_TYPE_F16,
    };
    gpu_ok(dequant_cuda(&args, NULL));
    gpu_take(got, args.out, n_rows * sizeof *got);
    gpu_ok(cudaFree(dev_rows));
    assert_int_equal(emu_end(), 0);
    for (size_t r = 0; r < n_rows; r++)
        if (got[r] != r % 0x7c00) fail_msg("row %zu of %zu is %x", r, n_rows, got[r]);
    free(rows);
    free(got);
}

GPU_TEST(dequant)
GPU_TEST(refused)
GPU_TEST(convert)

int main(void)
{
    printf("seed %d\n", SEED);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dequant),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_convert),
        cmocka_unit_test(test_dequant_strides),
    };
    return gpu_run("k_dequant_cuda", tests, sizeof tests / sizeof tests[0]);
}
