// Contract: the table of host kernels. Stateless functions on host pointers, run by one thread over
// its share of the work. Filled with the reference first, then overridden up the instruction-set
// ladder (cpu/cpu_kernels.c).
//
// For all entries: pointers of tensors need no alignment beyond that of their element type, unless
// the entry says so; outputs do not overlap inputs unless it says "in place"; zero counts do
// nothing; rows are contiguous unless a stride is given; strides count elements unless they are
// named _bytes. NaN and infinity propagate as IEEE arithmetic would have it: they are never masked.

#ifndef FATHOM_SRC_IFACE_KERNELS_H
#define FATHOM_SRC_IFACE_KERNELS_H

#include "fathom/types.h"
#include "src/iface/kv_kernels.h"

// ---- Matrix products: out[t, r] = sum_c x[t, c] * w[r, c] ---------------------------------------
//
// Weights are packed once, when a model is loaded, into panels of `panel_rows` consecutive rows in
// whatever layout the variant likes; the last panel is filled up with rows of zeros. Activations
// are packed once per product into the variant's form (f32, bf16, or 8 bit with a scale for every
// 32 values) and then shared by all threads.
struct matmul_args {
    const void *panels; // packed panels, the first of this share; 64-byte aligned
    uint32_t n_rows;    // rows of the share: at most panels * panel_rows
    uint32_t n_cols;    // values in a row
    uint32_t n_tokens;  // rows of x, 1 or more
    const void *x; // packed activations: token t at x + t * x_row_bytes(n_cols); 64-byte aligned
    float *out;    // token t, row r at out[t * out_stride + r]
    size_t out_stride;
    const float *bias; // [n_rows] or NULL: added
    bool accumulate;   // add to out instead of writing it
};

struct matmul_kernel {
    uint32_t panel_rows;
    // Bytes of one packed panel (a multiple of 64) and of one packed activation row (likewise).
    size_t (*panel_bytes)(uint32_t n_cols);
    size_t (*x_row_bytes)(uint32_t n_cols);
    // Packs n_rows (1 .. panel_rows) consecutive rows, in the file's layout, into one panel.
    void (*pack_panel)(void *panel, const void *rows, uint32_t n_rows, uint32_t n_cols);
    // Packs one row of f32 activations. Kernels with equal pack_x and n_cols may share the result.
    void (*pack_x)(void *packed, const float *x, uint32_t n_cols);
    // Deterministic: a value does not depend on how rows or tokens were shared out among calls.
    void (*run)(const struct matmul_args *args);
};

// ---- Attention over some of the keys of one KV head ---------------------------------------------
//
// For each token t of the share and each query head g of the group, over the keys j which it sees:
//     s_j = scale * <q[t, g], k[j]>;  lse = log sum exp s_j;  o = sum exp(s_j - lse) v[j]
// Token t sees key j when  j < n_visible + t  and  j + n_window >= n_visible + t  (the latter only
// if n_window is not 0). An empty set gives o = 0 and lse = -infinity. A NaN score gives NaN in o
// and in lse.
struct attend_args {
    const float *q; // [n_tokens, group, d_k] with q_stride from token to token
    size_t q_stride;
    uint32_t n_tokens;
    uint32_t group;  // query heads that share the KV head, 1 .. 256
    uint32_t d_k;    // 1 .. 256
    uint32_t d_v;    // 1 .. 256
    int32_t kv_type; // F32, F16 or BF16
    const void *k;   // key j at k + j * k_stride_bytes
    const void *v;
    size_t k_stride_bytes;
    size_t v_stride_bytes;
    uint32_t n_keys;   // keys there are: j < n_keys
    int64_t n_visible; // keys that token 0 sees, by position; may be negative or above n_keys
    uint32_t n_window; // 0: no window
    float scale;
    float *o; // [n_tokens, group, d_v] with o_stride from token to token
    size_t o_stride;
    float *lse; // [n_tokens, group] with lse_stride from token to token
    size_t lse_stride;
    void *scratch; // ATTEND_SCRATCH_BYTES, 64-byte aligned, private to the thread
};
enum { ATTEND_SCRATCH_BYTES = 256 * 1024 };

// Merges n_parts partials over disjoint key sets: part p's row i is o[p * part_stride_o + i * d_v],
// lse[p * part_stride_lse + i]. The result may overlap part 0. -infinity parts count nothing; all
// parts empty gives 0 and -infinity. out_lse may be NULL.
struct merge_args {
    uint32_t n_parts;
    size_t n_rows;
    uint32_t d_v;
    const float *o;
    size_t part_stride_o;
    const float *lse;
    size_t part_stride_lse;
    float *out_o;   // [n_rows, d_v]
    float *out_lse; // [n_rows] or NULL
};

// ---- The table ----------------------------------------------------------------------------------

enum { KERNEL_TYPES = 31 }; // enum fathom_type indexes matmul[]; unknown types are all NULL

struct kernel_table {
    struct matmul_kernel matmul[KERNEL_TYPES];

    // n_cols values of a row in the file's layout to f32, bit-exact by the format's definition.
    void (*dequant_row)(int32_t type, const void *row, float *out, size_t n_cols);
    // f32 to FATHOM_TYPE_F16 or BF16 (nearest even) or F32 (copy).
    void (*convert)(int32_t type, const float *x, void *out, size_t n);

    // out[r, c] = x[r, c] / sqrt(mean_c x[r, c]^2 + eps) * weight[c]; in place allowed.
    void (*rmsnorm)(const float *x, const float *weight, float *out, size_t n_rows, size_t n_cols,
                    float eps);
    // Turns x [n_heads, d] of one token in place. cos_sin: [n_rot / 2][2] of this token's position;
    // pairing as in enum fathom_rope_pairing; elements from n_rot on stay.
    void (*rope)(float *x, const float *cos_sin, uint32_t n_heads, uint32_t d, uint32_t n_rot,
                 int32_t pairing);
    // Softmax of each row, in place: exp(x - max) / sum. A row of -infinity becomes zeros.
    void (*softmax)(float *x, size_t n_rows, size_t n_cols);
    // out = gate / (1 + exp(-gate)) * up; out may be gate or up.
    void (*swiglu)(const float *gate, const float *up, float *out, size_t n);
    // x += y
    void (*add)(float *x, const float *y, size_t n);

    void (*attend)(const struct attend_args *args);
    void (*merge)(const struct merge_args *args);

    struct kv_kernels kv;

    const char *name; // of the highest rung used: "ref", "avx2", "avx512"
};

#endif
