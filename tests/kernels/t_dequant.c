// Dequantisation against golden blocks made with the `gguf` Python package, to the last bit.
//
// A golden row has three blocks of bytes from a small generator, with scales and offsets put in
// place: an ordinary, a subnormal and an uneven one. A hash covers every value of the row; five of
// them are listed so that a failure shows something.

#include <string.h>

#include "cpu/cpu_kernels.h"
#include "fathom/device.h"
#include "src/base/dtype.h"
#include "tests/check.h"

enum { N_BLOCKS = 3, N_LISTED = 5 };

struct golden {
    int32_t type;
    uint32_t n_values;
    uint64_t hash; // FNV-1a of the row's bytes as little-endian f32
    float listed[N_LISTED];
};

// clang-format off
static const struct golden goldens[] = {
    {FATHOM_TYPE_Q4_0, 96, 0x3ccae44c1eb48e98ull, {-0.259765625f, -0.1484375f, -1.1920929e-07f, -1.99902344f, -4.99755859f}},
    {FATHOM_TYPE_Q4_1, 96, 0x14cc6531d945534cull, {0.0263671875f, 0.100585938f, 6.06775284e-05f, 9.09558105f, 2.09899902f}},
    {FATHOM_TYPE_Q5_0, 96, 0x2d952ec79359d395ull, {0.22265625f, -0.07421875f, 9.53674316e-07f, 3.99804688f, 13.9931641f}},
    {FATHOM_TYPE_Q5_1, 96, 0x22f442909bb81955ull, {-0.270507812f, -0.307617188f, 5.93662262e-05f, 27.086792f, 6.0970459f}},
    {FATHOM_TYPE_Q8_0, 96, 0xdb1ae1a2e19d7052ull, {-4.71289062f, -2.8203125f, 1.1920929e-07f, 99.9511719f, 71.9648438f}},
    {FATHOM_TYPE_Q4_K, 768, 0x6535e9fb5c26ff72ull, {7.01953125f, 3.01171875f, -0.00349134207f, -0.000734567642f, 289.158569f}},
    {FATHOM_TYPE_Q5_K, 768, 0xdf3ebd060727abfcull, {4.79296875f, 15.4804688f, -0.00157088041f, -0.000237286091f, 690.461182f}},
    {FATHOM_TYPE_Q6_K, 768, 0x14aa7295f26078f6ull, {-42.6015625f, 3.04296875f, 8.5234642e-05f, 0.000156521797f, 2806.62891f}},
};
// clang-format on

static void fill_row(int32_t type, uint8_t *row)
{
    static const uint16_t scales[N_BLOCKS] = {0x28c0, 0x8001, 0x3bff};
    static const uint16_t offsets[N_BLOCKS] = {0xb6b4, 0x03ff, 0x2e66};
    uint32_t block_bytes = dtype_find(type)->block_bytes;
    uint32_t state = 1;
    for (uint32_t i = 0; i < N_BLOCKS * block_bytes; i++) {
        state = state * 1664525u + 1013904223u;
        row[i] = (uint8_t)(state >> 24);
    }
    for (uint32_t i = 0; i < N_BLOCKS; i++, row += block_bytes) {
        bool has_offset = type == FATHOM_TYPE_Q4_1 || type == FATHOM_TYPE_Q5_1 ||
                          type == FATHOM_TYPE_Q4_K || type == FATHOM_TYPE_Q5_K;
        memcpy(row + (type == FATHOM_TYPE_Q6_K ? 208 : 0), &scales[i], 2);
        if (has_offset) memcpy(row + 2, &offsets[i], 2);
    }
}

static uint64_t hash_fnv(const void *data, size_t bytes)
{
    const uint8_t *at = data;
    uint64_t hash = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ at[i]) * 0x100000001b3ull;
    return hash;
}

static void check_golden(const struct golden *golden, const struct kernel_table *table)
{
    uint8_t row[N_BLOCKS * 210];
    float values[N_BLOCKS * 256];
    uint32_t n = golden->n_values;
    const uint32_t at[N_LISTED] = {0, 1, n / 3 + 1, n / 2 + 17, n - 1};
    fill_row(golden->type, row);
    table->dequant_row(golden->type, row, values, n);
    for (uint32_t i = 0; i < N_LISTED; i++)
        if (values[at[i]] != golden->listed[i])
            fail_msg("%s: value %u is %.9g, not %.9g", dtype_find(golden->type)->name, at[i],
                     (double)values[at[i]], (double)golden->listed[i]);
    if (hash_fnv(values, n * sizeof *values) != golden->hash)
        fail_msg("%s: a value that is not listed is wrong", dtype_find(golden->type)->name);
}

// The table's entry stays the definition's, whatever the instruction set.
static void equals_the_goldens(void **state)
{
    (void)state;
    const uint32_t masks[] = {0, FATHOM_ISA_ALL};
    for (size_t m = 0; m < 2; m++) {
        struct kernel_table table;
        cpu_kernels_init(&table, masks[m]);
        for (size_t i = 0; i < sizeof goldens / sizeof goldens[0]; i++)
            check_golden(&goldens[i], &table);
    }
}

static void reads_floats(void **state)
{
    (void)state;
    struct kernel_table table;
    cpu_kernels_init(&table, FATHOM_ISA_ALL);
    const uint16_t f16[] = {0x3c00, 0xc200, 0x0001, 0x7bff, 0xfc00, 0x8000};
    const float f16_values[] = {1.0f, -3.0f, 0x1p-24f, 65504.0f, -1.0f / 0.0f, -0.0f};
    const uint16_t bf16[] = {0x3f80, 0xc040, 0x0001, 0x7f80};
    const float bf16_values[] = {1.0f, -3.0f, 0x1p-133f, 1.0f / 0.0f};
    const float f32[] = {1.5f, -0.0f, 0x1p-149f};
    float out[6];
    table.dequant_row(FATHOM_TYPE_F16, f16, out, 6);
    assert_memory_equal(out, f16_values, sizeof f16_values);
    table.dequant_row(FATHOM_TYPE_BF16, bf16, out, 4);
    assert_memory_equal(out, bf16_values, sizeof bf16_values);
    table.dequant_row(FATHOM_TYPE_F32, f32, out, 3);
    assert_memory_equal(out, f32, sizeof f32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_the_goldens),
        cmocka_unit_test(reads_floats),
    };
    return check_run("dequant", tests, sizeof tests / sizeof tests[0]);
}
