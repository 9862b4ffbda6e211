// Launchers of the kernels of linear algebra: products of few tokens with weights of any type, and
// rows of weights as floats. Pointers are the device's; weights are packed rows
// (gpu/product_rows.h), aligned to 16. The same input gives the same bits. Inside gpu/ only: the
// device makes a status of the error.

#ifndef FATHOM_GPU_PRODUCT_CUDA_H
#define FATHOM_GPU_PRODUCT_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

#include "src/iface/linear.h"

#ifdef __cplusplus
extern "C" {
#endif

// ---- Products of few tokens: out[t, r] (+)= x[t, :] . w[r, :] + bias[r] -------------------------
//
// Each weight is read once, whatever the number of tokens; more than PRODUCT_TOKENS_MAX are the
// business of cuBLAS. A value does not depend on the other tokens, rows and products of the call.
//
// Weights of 8 bits and fewer meet activations of 15 bits, as on CPUs with VNNI: of each 32 values
// scale * (128 q[0] + q[1]), scale = max |x| / (127 * 128), so that products of bytes are exact.
// Groups with a maximum below 1e-34 count as zeros. NaN and infinities make NaN of the token's
// values. Weights of floats meet f32.
enum { PRODUCT_TOKENS_MAX = 8 };

struct decode_product {
    const void *weight; // packed rows
    const float *bias;  // [n_rows] or NULL
    float *out;         // [n_tokens, n_rows]; overlaps nothing else
    uint32_t n_rows;    // 0: nothing is done
    int32_t type;       // enum fathom_type; may differ from the other products'
};

struct decode_args {
    const float *x; // [n_tokens, n_cols]
    void *scratch;  // product_scratch_bytes, aligned to 16; free again when the stream is past this
    uint32_t n_tokens; // 1 to PRODUCT_TOKENS_MAX
    uint32_t n_cols;   // a multiple of each type's block
    uint32_t n_products;
    bool accumulate; // add to out instead of writing it
    struct decode_product products[MATMUL_PRODUCTS_MAX];
};

// For the packed activations of any type.
size_t product_scratch_bytes(uint32_t n_tokens, uint32_t n_cols);

// One launch to pack the activations and one for the products, for each kind of weights that there
// is (one, but where types are mixed). cudaErrorInvalidValue: a count or a type is none of the
// above.
cudaError_t product_decode_cuda(const struct decode_args *args, cudaStream_t stream);

// ---- Rows of weights as floats ------------------------------------------------------------------

struct dequant_args {
    const void *weight; // packed rows
    const int32_t *ids; // [n_rows] row i of out is row ids[i], for embedding; NULL: row i
    void *out;          // [n_rows, n_cols], aligned to 16
    size_t n_rows;      // of out
    uint32_t n_cols;
    int32_t type;     // of the weight
    int32_t out_type; // F32: as the format defines them, to the bit; F16, BF16: that, nearest even
};
// No id is looked at: each is below the weight's number of rows.
cudaError_t dequant_cuda(const struct dequant_args *args, cudaStream_t stream);

// x to FATHOM_TYPE_F16 or BF16, nearest even; NaN stays NaN.
cudaError_t convert_cuda(int32_t type, const float *x, void *out, size_t n, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
