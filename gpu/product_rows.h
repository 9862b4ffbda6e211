// Rows of weights as the device holds them: plain C, so that it is packed and tested without one.
//
// A GGUF row is a row of blocks, and most blocks (18, 34, 210 bytes) let no thread load 16 aligned
// bytes. So a row is packed, once, when it is uploaded, into planes: of every group of values the
// same 16 bytes, one group after the other, then of every group the next. A warp whose lanes take
// one group each so reads 512 bytes in a row, all types look alike to it, and a lane has the whole
// group of 32 values that share one scale of the activations. Nothing is unpacked: a packed row is
// as large as in the file, but for each plane's end, which zeros fill to 16 bytes.
//
//     type            group  low plane                  high plane                   scales, subs
//     F32                 8  values 0 to 3              values 4 to 7
//     F16, BF16           8  values 0 to 7
//     Q8_0               32  values 0 to 15             values 16 to 31              d
//     Q4_0, Q4_1         32  nibbles, as Q4_0 has them                               d; d, m
//     Q5_0, Q5_1         32  nibbles                    4 bytes of fifth bits        d; d, m
//     Q4_K               32  nibbles                                                 head of 256
//     Q5_K               32  nibbles                    4 bytes of fifth bits        head of 256
//     Q6_K               32  nibbles                    8 bytes of upper pairs       d of 256; 2
//
// - Nibbles: byte i has values i (low) and 16 + i. As eight words of four values, u[0 .. 7], they
//   are word j and, shifted by 4, word j of the plane.
// - Fifth bits: bit j of byte i is of value i of u[j]. Upper pairs: of two words, bits 2j of byte i
//   of the first are of value i of u[j], of the second of u[4 + j].
// - d, m: f16. The head is the file's: d, dmin, and 12 bytes of sub-scales and minima. Subs: a
//   group's two signed sub-scales.
//
// Rows of F16 and BF16 are the file's, and cuBLAS may read them where they lie.

#ifndef FATHOM_GPU_PRODUCT_ROWS_H
#define FATHOM_GPU_PRODUCT_ROWS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// What a row of a type has beside the low plane's 16 bytes of each group: values of a group, bytes
// of its part of the high plane, bytes of a block's scales, bytes of the group's subs, groups of a
// block; and of its quants: bits, the one that stands for zero, whether there is an offset.
// clang-format off
#define PRODUCT_FORMS(X)                                                                           \
    X(F32,   8, 16,  0, 0, 1, 0,  0, 0)                                                            \
    X(F16,   8,  0,  0, 0, 1, 0,  0, 0)                                                            \
    X(BF16,  8,  0,  0, 0, 1, 0,  0, 0)                                                            \
    X(Q8_0, 32, 16,  2, 0, 1, 8,  0, 0)                                                            \
    X(Q4_0, 32,  0,  2, 0, 1, 4,  8, 0)                                                            \
    X(Q4_1, 32,  0,  4, 0, 1, 4,  0, 1)                                                            \
    X(Q5_0, 32,  4,  2, 0, 1, 5, 16, 0)                                                            \
    X(Q5_1, 32,  4,  4, 0, 1, 5,  0, 1)                                                            \
    X(Q4_K, 32,  0, 16, 0, 8, 4,  0, 1)                                                            \
    X(Q5_K, 32,  4, 16, 0, 8, 5,  0, 1)                                                            \
    X(Q6_K, 32,  8,  2, 2, 8, 6, 32, 0)
// clang-format on
enum { PRODUCT_FLOAT_GROUP = 8, PRODUCT_QUANT_GROUP = 32 };

// Where the planes of a row begin, in bytes from its own beginning; the low plane is first.
struct product_layout {
    uint32_t group_values;
    size_t n_groups; // of a row
    size_t highs_at;
    size_t scales_at;
    size_t subs_at;
    size_t row_bytes; // a multiple of 16
};

// type: one of enum fathom_type; n_cols: a multiple of its block, not 0. All zeros for other types.
struct product_layout product_layout_of(int32_t type, uint32_t n_cols);

// Packs n_rows consecutive rows in the file's layout; each row apart, so that they may come in
// parts. packed: n_rows * row_bytes.
void product_pack_rows(int32_t type, uint32_t n_cols, const void *rows, size_t n_rows,
                       void *packed);

#ifdef __cplusplus
}
#endif

#endif
