// Rows of GGUF tensors to f32, bit-exact by the formats' definitions. Clear, not fast.

#include "cpu/ref/dequant_ref.h"

#include <string.h>

#include "cpu/ladder.h"
#include "src/base/half.h"
#include "src/base/quants.h"

static void dequant_half(int32_t type, const uint8_t *row, float *out, size_t n_cols)
{
    for (size_t i = 0; i < n_cols; i++) {
        uint16_t bits;
        memcpy(&bits, row + 2 * i, 2);
        out[i] = type == FATHOM_TYPE_F16 ? half_to_float(bits) : bf16_to_float(bits);
    }
}

// The products d * scale and dmin * min are exact in f32 (11 bits by at most 8), so what follows
// rounds where the formats' definition does.
static void dequant_block(int32_t type, const uint8_t *bytes, float *out)
{
    struct quant_form form = quant_form_of(type);
    struct quant_block block;
    quant_unpack(type, bytes, &block);
    bool has_scales = form.block_values == QUANT_BLOCK_MAX;
    for (uint32_t i = 0; i < form.block_values; i++) {
        uint32_t sub = i / form.sub_values;
        float scale = half_to_float(block.d) * (has_scales ? (float)block.scale[sub] : 1.0f);
        out[i] = scale * (float)((int32_t)block.u[i] - (int32_t)form.zero);
        if (!form.has_min) continue;
        float offset = half_to_float(block.dmin);
        out[i] += has_scales ? -(offset * (float)block.min[sub]) : offset;
    }
}

void dequant_ref_row(int32_t type, const void *row, float *out, size_t n_cols)
{
    const uint8_t *bytes = row;
    if (type == FATHOM_TYPE_F32) {
        memcpy(out, row, n_cols * sizeof *out);
    } else if (type == FATHOM_TYPE_F16 || type == FATHOM_TYPE_BF16) {
        dequant_half(type, bytes, out, n_cols);
    } else {
        struct quant_form form = quant_form_of(type);
        for (size_t i = 0; i < n_cols; i += form.block_values, bytes += form.block_bytes)
            dequant_block(type, bytes, out + i);
    }
}

void dequant_ref_fill(struct kernel_table *table)
{
    table->dequant_row = dequant_ref_row;
}
