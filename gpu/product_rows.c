// Packing rows of weights for the device. Run once for each weight, on the host.

#include "gpu/product_rows.h"

#include <string.h>

#include "src/base/mem.h"
#include "src/base/quants.h"

enum { PLANE_ALIGN = 16, LOW_BYTES = 16, WORDS = 8, WORD_BYTES = 4 };

struct planes {
    uint32_t group_values; // 0: no such type
    uint32_t high_bytes;
    uint32_t scale_bytes;
    uint32_t sub_bytes;
    uint32_t block_groups;
    uint32_t n_bits;
};

static struct planes planes_of(int32_t type)
{
#define PLANES(name, group, high, scale, sub, block, bits, zero, has_min)                          \
    case FATHOM_TYPE_##name:                                                                       \
        return (struct planes){group, high, scale, sub, block, bits};
    switch (type) {
        PRODUCT_FORMS(PLANES)
    default:
        return (struct planes){0, 0, 0, 0, 0, 0};
    }
#undef PLANES
}

struct product_layout product_layout_of(int32_t type, uint32_t n_cols)
{
    const struct planes planes = planes_of(type);
    struct product_layout layout = {planes.group_values, 0, 0, 0, 0, 0};
    if (planes.group_values == 0) return layout;
    layout.n_groups = ((size_t)n_cols + planes.group_values - 1) / planes.group_values;
    const size_t n_blocks = layout.n_groups / planes.block_groups;
    layout.highs_at = layout.n_groups * LOW_BYTES;
    layout.scales_at =
        layout.highs_at + size_round(layout.n_groups * planes.high_bytes, PLANE_ALIGN);
    layout.subs_at = layout.scales_at + size_round(n_blocks * planes.scale_bytes, PLANE_ALIGN);
    layout.row_bytes = layout.subs_at + size_round(layout.n_groups * planes.sub_bytes, PLANE_ALIGN);
    return layout;
}

// Of 4-byte floats the two planes take turns; of others there is one.
static void pack_floats(int32_t type, uint32_t n_cols, const uint8_t *row,
                        const struct product_layout *layout, uint8_t *packed)
{
    if (type != FATHOM_TYPE_F32) {
        memcpy(packed, row, (size_t)n_cols * 2);
        return;
    }
    const size_t bytes = (size_t)n_cols * sizeof(float);
    for (size_t at = 0; at < bytes; at += LOW_BYTES) {
        const size_t plane = at / LOW_BYTES % 2, group = at / LOW_BYTES / 2;
        memcpy(packed + plane * layout->highs_at + group * LOW_BYTES, row + at,
               bytes - at < LOW_BYTES ? bytes - at : LOW_BYTES);
    }
}

// The quants of a group: 16 bytes of the low plane and what the type has of the high one.
static void pack_quants(uint32_t n_bits, const uint8_t *u, uint8_t *low, uint8_t *high)
{
    if (n_bits == 8) {
        for (uint32_t i = 0; i < LOW_BYTES; i++) {
            low[i] = u[i] ^ 0x80; // back to two's complement
            high[i] = u[LOW_BYTES + i] ^ 0x80;
        }
        return;
    }
    for (uint32_t i = 0; i < LOW_BYTES; i++)
        low[i] = (uint8_t)((u[i] & 15) | (u[LOW_BYTES + i] & 15) << 4);
    for (uint32_t j = 0; n_bits > 4 && j < WORDS; j++)
        for (uint32_t i = 0; i < WORD_BYTES; i++) {
            const uint32_t upper = u[j * WORD_BYTES + i] >> 4;
            if (n_bits == 5)
                high[i] |= (uint8_t)(upper << j);
            else
                high[j / 4 * WORD_BYTES + i] |= (uint8_t)(upper << 2 * (j % 4));
        }
}

// Block `index` of a row, whose planes are zeros so far.
static void pack_block(int32_t type, const uint8_t *bytes, size_t index,
                       const struct product_layout *layout, uint8_t *packed)
{
    const struct planes planes = planes_of(type);
    struct quant_block block;
    quant_unpack(type, bytes, &block);
    memcpy(packed + layout->scales_at + index * planes.scale_bytes,
           bytes + (type == FATHOM_TYPE_Q6_K ? 208 : 0), planes.scale_bytes);
    for (uint32_t i = 0; i < planes.block_groups; i++) {
        const size_t group = index * planes.block_groups + i;
        pack_quants(planes.n_bits, block.u + i * PRODUCT_QUANT_GROUP, packed + group * LOW_BYTES,
                    packed + layout->highs_at + group * planes.high_bytes);
        memcpy(packed + layout->subs_at + group * planes.sub_bytes,
               block.scale + i * planes.sub_bytes, planes.sub_bytes);
    }
}

void product_pack_rows(int32_t type, uint32_t n_cols, const void *rows, size_t n_rows, void *packed)
{
    const struct product_layout layout = product_layout_of(type, n_cols);
    const struct quant_form form = quant_form_of(type);
    const uint8_t *from = rows;
    uint8_t *to = packed;
    memset(packed, 0, n_rows * layout.row_bytes);
    for (size_t row = 0; row < n_rows; row++, to += layout.row_bytes) {
        if (form.block_values == 0) {
            pack_floats(type, n_cols, from, &layout, to);
            from += (size_t)n_cols * (type == FATHOM_TYPE_F32 ? 4 : 2);
        }
        for (size_t i = 0; form.block_values > 0 && i < n_cols / form.block_values; i++) {
            pack_block(type, from, i, &layout, to);
            from += form.block_bytes;
        }
    }
}
