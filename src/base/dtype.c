// The table of number types. Block layouts are those of GGUF.

#include "src/base/dtype.h"

#include <assert.h>
#include <strings.h>

static const struct dtype types[] = {
    {FATHOM_TYPE_F32, "F32", 1, 4},
    {FATHOM_TYPE_F16, "F16", 1, 2},
    // Blocks of 32: one or two f16 (scale, minimum), high bits of 5-bit values, packed values.
    {FATHOM_TYPE_Q4_0, "Q4_0", 32, 2 + 16},
    {FATHOM_TYPE_Q4_1, "Q4_1", 32, 4 + 16},
    {FATHOM_TYPE_Q5_0, "Q5_0", 32, 2 + 4 + 16},
    {FATHOM_TYPE_Q5_1, "Q5_1", 32, 4 + 4 + 16},
    {FATHOM_TYPE_Q8_0, "Q8_0", 32, 2 + 32},
    // Super-blocks of 256: f16 scales, scales of their parts, high bits, packed values.
    {FATHOM_TYPE_Q4_K, "Q4_K", 256, 4 + 12 + 128},
    {FATHOM_TYPE_Q5_K, "Q5_K", 256, 4 + 12 + 32 + 128},
    {FATHOM_TYPE_Q6_K, "Q6_K", 256, 2 + 16 + 64 + 128},
    {FATHOM_TYPE_BF16, "BF16", 1, 2},
};
static const size_t n_types = sizeof types / sizeof types[0];

const struct dtype *dtype_find(int32_t type)
{
    for (size_t i = 0; i < n_types; i++)
        if (types[i].type == type) return &types[i];
    return NULL;
}

const struct dtype *dtype_find_name(const char *name)
{
    for (size_t i = 0; i < n_types; i++)
        if (strcasecmp(types[i].name, name) == 0) return &types[i];
    return NULL;
}

const struct dtype *dtype_all(size_t *count)
{
    *count = n_types;
    return types;
}

size_t dtype_row_bytes(int32_t type, size_t n_cols)
{
    const struct dtype *dtype = dtype_find(type);
    assert(dtype != NULL);
    assert(n_cols % dtype->block_values == 0);
    return n_cols / dtype->block_values * dtype->block_bytes;
}
