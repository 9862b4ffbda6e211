// Packed rows of weights: every value is where gpu/product_rows.h says, and nothing else is lost,
// added or written.

#include "tests/check.h"

#include "cpu/cpu_kernels.h"
#include "gpu/product_rows.h"
#include "src/base/dtype.h"
#include "src/base/half.h"
#include "src/base/quants.h"
#include "src/base/rng.h"

enum { SEED = 5, ROWS = 3, COLS_MAX = 1280, CANARY_BYTES = 16, CANARY = 0xa5 };

static uint16_t half_at(const uint8_t *at)
{
    return (uint16_t)(at[0] | at[1] << 8);
}

// Value `col` of a packed row of floats, by the table.
static float read_float(int32_t type, const struct product_layout *l, const uint8_t *row,
                        uint32_t col)
{
    const uint32_t group = col / 8, i = col % 8;
    float value;
    if (type == FATHOM_TYPE_F16) return half_to_float(half_at(row + 2 * col));
    if (type == FATHOM_TYPE_BF16) return bf16_to_float(half_at(row + 2 * col));
    memcpy(&value, row + (i < 4 ? 0 : l->highs_at) + 16 * group + 4 * (i % 4), sizeof value);
    return value;
}

// u - zero.
static int read_quant(int32_t type, const struct product_layout *l, const uint8_t *row,
                      uint32_t col)
{
    const struct quant_form form = quant_form_of(type);
    const uint32_t group = col / 32, i = col % 32, word = i / 4;
    const uint8_t *low = row + 16 * group + i % 16, *high = row + l->highs_at;
    if (form.n_bits == 8) return (int8_t)(i < 16 ? *low : high[16 * group + i % 16]);
    int u = i < 16 ? *low & 15 : *low >> 4;
    if (form.n_bits == 5) u |= (high[4 * group + i % 4] >> word & 1) << 4;
    if (form.n_bits == 6)
        u |= (high[8 * group + 4 * (word / 4) + i % 4] >> 2 * (word % 4) & 3) << 4;
    return u - (int)form.zero;
}

static float read_value(int32_t type, const struct product_layout *l, const uint8_t *row,
                        uint32_t col)
{
    const struct quant_form form = quant_form_of(type);
    if (form.block_values == 0) return read_float(type, l, row, col);
    const uint32_t group = col / 32;
    const int quant = read_quant(type, l, row, col);
    const uint8_t *scales = row + l->scales_at, *subs = row + l->subs_at;
    struct quant_block head;
    if (type == FATHOM_TYPE_Q6_K)
        return half_to_float(half_at(scales + 2 * (group / 8))) *
               (float)(int8_t)subs[2 * group + col % 32 / 16] * (float)quant;
    if (type == FATHOM_TYPE_Q4_K || type == FATHOM_TYPE_Q5_K) {
        scales += 16 * (group / 8);
        unpack_k_scales(scales + 4, &head);
        return half_to_float(half_at(scales)) * (float)head.scale[group % 8] * (float)quant -
               half_to_float(half_at(scales + 2)) * (float)head.min[group % 8];
    }
    if (!form.has_min) return half_to_float(half_at(scales + 2 * group)) * (float)quant;
    scales += 4 * group;
    return half_to_float(half_at(scales)) * (float)quant + half_to_float(half_at(scales + 2));
}

// Any bits but scales that are not finite.
static void fill_rows(int32_t type, uint32_t n_cols, uint8_t *rows)
{
    const struct quant_form form = quant_form_of(type);
    const size_t n_bytes = ROWS * dtype_row_bytes(type, n_cols);
    struct rng rng;
    rng_init(&rng, SEED);
    for (size_t i = 0; i < n_bytes; i++)
        rows[i] = (uint8_t)rng_u64(&rng);
    for (size_t i = 1; form.block_values == 0 && i < n_bytes; i += 2)
        rows[i] &= 0xbf;
    for (size_t i = 0; form.block_values > 0 && i < n_bytes; i += form.block_bytes) {
        uint8_t *scale = rows + i + (type == FATHOM_TYPE_Q6_K ? 208 : 0);
        scale[1] &= 0xbf;
        if (form.has_min) scale[3] &= 0xbf;
    }
}

static void check_rows(int32_t type, uint32_t n_cols)
{
    static uint8_t rows[ROWS * COLS_MAX * 4], packed[ROWS * COLS_MAX * 4 + 128],
        again[sizeof packed];
    static float want[COLS_MAX];
    const struct product_layout l = product_layout_of(type, n_cols);
    const size_t row_bytes = dtype_row_bytes(type, n_cols);
    struct kernel_table table;
    cpu_kernels_init(&table, 0);
    fill_rows(type, n_cols, rows);
    memset(packed, CANARY, sizeof packed);
    product_pack_rows(type, n_cols, rows, ROWS, packed);
    assert_int_equal(l.row_bytes % 16, 0);
    assert_int_equal(l.highs_at % 16 + l.scales_at % 16 + l.subs_at % 16, 0);
    assert_in_range(l.row_bytes, row_bytes, row_bytes + 3 * 16);
    for (size_t i = 0; i < CANARY_BYTES; i++)
        assert_int_equal(packed[ROWS * l.row_bytes + i], CANARY);
    for (uint32_t r = 0; r < ROWS; r++) {
        table.dequant_row(type, rows + r * row_bytes, want, n_cols);
        for (uint32_t c = 0; c < n_cols; c++)
            if (read_value(type, &l, packed + r * l.row_bytes, c) != want[c])
                fail_msg("%s: %u columns: [%u, %u] is not %g", dtype_find(type)->name, n_cols, r, c,
                         (double)want[c]);
    }
    memset(again, CANARY, sizeof again); // the rows one by one
    for (uint32_t r = 0; r < ROWS; r++)
        product_pack_rows(type, n_cols, rows + r * row_bytes, 1, again + r * l.row_bytes);
    assert_memory_equal(packed, again, sizeof again);
}

// What lies behind the last column of floats is zero: kernels multiply with it.
static void test_padding(void **state)
{
    (void)state;
    static const int32_t types[] = {FATHOM_TYPE_F32, FATHOM_TYPE_F16, FATHOM_TYPE_BF16};
    uint8_t row[4 * 9], packed[64], zeros[64] = {0};
    memset(row, 0xff, sizeof row);
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        const struct product_layout l = product_layout_of(types[i], 9);
        const size_t last = i == 0 ? 20 : 18; // of the low plane
        memset(packed, CANARY, sizeof packed);
        product_pack_rows(types[i], 9, row, 1, packed);
        assert_int_equal(l.n_groups, 2);
        assert_memory_equal(packed + last, zeros, 32 - last);
        if (i == 0) assert_memory_equal(packed + 48, zeros, 16);
    }
}

static void test_values(void **state)
{
    (void)state;
    static const uint32_t cols[] = {1, 3, 7, 8, 9, 32, 96, 100, 256, 768, COLS_MAX};
    size_t n_types;
    const struct dtype *types = dtype_all(&n_types);
    for (size_t i = 0; i < n_types; i++)
        for (size_t j = 0; j < sizeof cols / sizeof cols[0]; j++)
            if (cols[j] % types[i].block_values == 0) check_rows(types[i].type, cols[j]);
}

static void test_no_type(void **state)
{
    (void)state;
    assert_int_equal(product_layout_of(-1, 256).row_bytes, 0);
    assert_int_equal(product_layout_of(1000, 256).row_bytes, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_padding),
        cmocka_unit_test(test_no_type),
    };
    printf("seed %d\n", SEED);
    return check_run("t_product_rows", tests, sizeof tests / sizeof tests[0]);
}
