// The truth about codes of K and V rows.
//
// The arithmetic is defined to the bit, so that all variants store the same rows: steps, codes and
// values are computed in f32, rounded once by each operation (the decoded value by a single fused
// multiply-add), and codes go to the nearest, ties to even.
//
// Step and min of V are f16, rounded such that the range of the values stays inside that of the
// codes: min down, step up. Hence every value within f16's range is off by half a step at most;
// values beyond it are clamped.

#include "cpu/ref/kv_codec_ref.h"

#include "cpu/ladder.h"

#include <math.h>
#include <string.h>

#include "src/base/half.h"

static const float half_max = 65504;

// Where the code of channel c lies.
struct code_place {
    size_t byte;
    uint32_t shift;
};

static struct code_place find_code(uint32_t bits, uint32_t c)
{
    uint32_t piece = 128 / bits, at = c % piece;
    return (struct code_place){(size_t)(c / piece) * KV_PIECE_BYTES + at % KV_PIECE_BYTES,
                               at / KV_PIECE_BYTES * bits};
}

uint32_t kv_code_ref(uint32_t bits, const void *codes, uint32_t c)
{
    struct code_place place = find_code(bits, c);
    return ((const uint8_t *)codes)[place.byte] >> place.shift & ((1u << bits) - 1);
}

size_t kv_v_head_bytes_ref(uint32_t d)
{
    return (d + KV_GROUP - 1) / KV_GROUP * 2 * sizeof(uint16_t);
}

void kv_v_scale_ref(const void *row, uint32_t group, float *step, float *min)
{
    uint16_t halves[2];
    memcpy(halves, (const char *)row + group * sizeof halves, sizeof halves);
    *step = half_to_float(halves[0]);
    *min = half_to_float(halves[1]);
}

static float top_code(uint32_t bits)
{
    return (float)((1u << bits) - 1);
}

// Adds the nearest code of x to codes that are zeros so far.
static void put_code(uint32_t bits, void *codes, uint32_t c, float x, float min, float step)
{
    if (step == 0) return;
    float code = fminf(fmaxf(rintf((x - min) / step), 0), top_code(bits));
    struct code_place place = find_code(bits, c);
    uint8_t *byte = (uint8_t *)codes + place.byte;
    *byte = (uint8_t)(*byte | (uint32_t)code << place.shift);
}

static void k_range_ref(uint32_t bits, const float *x, size_t n_rows, uint32_t d, float *k_min,
                        float *k_step)
{
    if (n_rows == 0) return;
    for (uint32_t c = 0; c < d; c++) {
        float min = x[c], max = x[c];
        for (size_t row = 1; row < n_rows; row++) {
            min = fminf(min, x[row * d + c]);
            max = fmaxf(max, x[row * d + c]);
        }
        k_min[c] = min + 0.0f; // no -0: which zero is the least depends on the order
        k_step[c] = (max - k_min[c] + 0.0f) / top_code(bits);
    }
}

static void k_encode_ref(uint32_t bits, const float *x, const float *k_min, const float *k_step,
                         uint32_t d, void *row)
{
    memset(row, 0, kv_code_bytes(bits, d));
    for (uint32_t c = 0; c < d; c++)
        put_code(bits, row, c, x[c], k_min[c], k_step[c]);
}

static void k_decode_ref(uint32_t bits, const void *row, const float *k_min, const float *k_step,
                         uint32_t d, float *x)
{
    for (uint32_t c = 0; c < d; c++)
        x[c] = fmaf(k_step[c], (float)kv_code_ref(bits, row, c), k_min[c]);
}

// The f16 number next to h in the direction, 1 or -1; h is finite.
static uint16_t next_half(uint16_t h, int direction)
{
    const uint16_t sign = 0x8000;
    if ((h & ~sign) == 0) return direction > 0 ? 1 : sign | 1;
    return (uint16_t)(h + ((h & sign) != 0 ? -direction : direction));
}

// The greatest f16 number that is not above x, and the least that is not below it; within f16's
// range.
static uint16_t half_below(float x)
{
    uint16_t h = half_from_float(fminf(fmaxf(x, -half_max), half_max));
    return half_to_float(h) > x && x >= -half_max ? next_half(h, -1) : h;
}
static uint16_t half_above(float x)
{
    uint16_t h = half_from_float(fminf(x, half_max));
    return half_to_float(h) < x && x <= half_max ? next_half(h, 1) : h;
}

static void v_encode_ref(uint32_t bits, const float *x, uint32_t d, void *row)
{
    char *codes = (char *)row + kv_v_head_bytes_ref(d);
    memset(codes, 0, kv_code_bytes(bits, d));
    for (uint32_t begin = 0; begin < d; begin += KV_GROUP) {
        uint32_t end = begin + KV_GROUP < d ? begin + KV_GROUP : d;
        float min = x[begin], max = x[begin];
        for (uint32_t c = begin + 1; c < end; c++) {
            min = fminf(min, x[c]);
            max = fmaxf(max, x[c]);
        }
        uint16_t halves[2] = {0, half_below(min + 0.0f)};
        min = half_to_float(halves[1]);
        float range = fmaxf(fminf(max, half_max) - min, 0) + 0.0f;
        halves[0] = half_above(range / top_code(bits));
        memcpy((char *)row + begin / KV_GROUP * sizeof halves, halves, sizeof halves);
        for (uint32_t c = begin; c < end; c++)
            put_code(bits, codes, c, x[c], min, half_to_float(halves[0]));
    }
}

static void v_decode_ref(uint32_t bits, const void *row, uint32_t d, float *x)
{
    const char *codes = (const char *)row + kv_v_head_bytes_ref(d);
    for (uint32_t c = 0; c < d; c++) {
        float step, min;
        kv_v_scale_ref(row, c / KV_GROUP, &step, &min);
        x[c] = fmaf(step, (float)kv_code_ref(bits, codes, c), min);
    }
}

void kv_codec_ref_fill(struct kernel_table *table)
{
    table->kv.k_range = k_range_ref;
    table->kv.k_encode = k_encode_ref;
    table->kv.v_encode = v_encode_ref;
    table->kv.k_decode = k_decode_ref;
    table->kv.v_decode = v_decode_ref;
}
