// Contract: linear algebra over (quantised) weights, norms and activations, as a model's forward
// pass needs it. Same queue and same rules as src/iface/device.h; all entries but best_logits are
// mandatory.

#ifndef FATHOM_SRC_IFACE_LINEAR_H
#define FATHOM_SRC_IFACE_LINEAR_H

#include "fathom/device.h"

struct weight; // a matrix in the device's own layout

// rows: [n_rows, n_cols] in the layout of a GGUF tensor of that type.
struct weight_desc {
    const char *name; // for messages
    int32_t type;     // enum fathom_type
    uint32_t n_rows;
    uint32_t n_cols;
    const void *rows;
    bool in_ram; // stays in the host's memory and comes with every product; of no meaning to a
                 // device that works there
};

struct product {
    const struct weight *weight;
    const float *dev_bias; // [n_rows] or NULL
    float *dev_out;        // [n_tokens, n_rows]
};

// out_i = x * w_i^T for up to MATMUL_PRODUCTS_MAX weights with equal n_cols.
enum { MATMUL_PRODUCTS_MAX = 4 };
struct matmul_many_args {
    const float *dev_x; // [n_tokens, n_cols]
    uint32_t n_tokens;
    uint32_t n_products;
    bool accumulate; // add to dev_out
    struct product products[MATMUL_PRODUCTS_MAX];
};

// One of a row of logits, and where it stands there.
struct logit {
    float value;
    int32_t id;
};
enum { LOGITS_BEST_MAX = 256 };

struct linear_ops {
    // Copies and packs the rows; they need not outlive the call.
    fathom_status (*weight_open)(fathom_device *device, const struct weight_desc *desc,
                                 struct weight **weight);
    void (*weight_close)(fathom_device *device, struct weight **weight);
    // Keeps the rows where they are (held until close), for embed only.
    fathom_status (*table_open)(fathom_device *device, const struct weight_desc *desc,
                                struct weight **table);

    // dev_out[i, :] = row ids[i] of the table; ids are host memory, each below n_rows.
    fathom_status (*embed)(fathom_device *device, const struct weight *table, const int32_t *ids,
                           uint32_t n_ids, float *dev_out);
    fathom_status (*matmul)(fathom_device *device, const struct matmul_many_args *args);
    // Over n_rows rows of n_cols; in place allowed.
    fathom_status (*rmsnorm)(fathom_device *device, const float *dev_x, const float *dev_weight,
                             float *dev_out, size_t n_rows, size_t n_cols, float eps);
    // dev_out = silu(dev_gate) * dev_up; dev_out may be either.
    fathom_status (*swiglu)(fathom_device *device, const float *dev_gate, const float *dev_up,
                            float *dev_out, size_t n);
    // The n_best largest finite values of dev_logits [n_logits] to host memory, the largest first;
    // of equal ones, the first. Where there are fewer, ids of the others are -1. n_best is 1 to
    // LOGITS_BEST_MAX. NULL: the device works in the host's memory, where one may as well look.
    fathom_status (*best_logits)(fathom_device *device, const float *dev_logits, uint32_t n_logits,
                                 struct logit *best, uint32_t n_best);
};

// The device's linear operations. Defined in src/kv/wire.c; never NULL.
const struct linear_ops *linear_of(fathom_device *device);

#endif
