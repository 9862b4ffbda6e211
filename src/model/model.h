// A loaded model: hyperparameters, weights on a device, vocabulary.

#ifndef FATHOM_SRC_MODEL_MODEL_H
#define FATHOM_SRC_MODEL_MODEL_H

#include "fathom/model.h"
#include "src/base/mem.h"
#include "src/iface/device.h"
#include "src/iface/linear.h"
#include "src/model/metadata.h"
#include "src/model/vocab.h"

// A matrix and its optional bias.
struct affine {
    struct weight *weight; // [n_rows, n_cols]
    float *dev_bias;       // [n_rows] or NULL
    uint32_t n_rows;
};

// A vector on the device.
struct vector {
    float *dev; // [n] or NULL
    size_t n;
};

struct layer {
    struct vector attn_norm;
    struct affine q, k, v, o;
    struct vector q_norm, k_norm; // of each head, before RoPE; may be absent
    struct vector ffn_norm;
    struct affine gate, up, down;
};

struct fathom_model {
    fathom_gguf *gguf;
    struct metadata *metadata;
    struct vocab *vocab;
    struct arena arena; // strings, layers, divisors
    struct fathom_model_info info;
    float eps;             // of RMSNorm
    float attn_scale;      // 0: 1 / sqrt(d_k)
    fathom_device *device; // held; NULL: vocabulary only, and nothing below
    const struct linear_ops *linear;
    struct weight *embedding; // table [n_vocab, d_model]
    struct vector output_norm;
    struct affine output; // [n_vocab, d_model]
    struct layer *layers; // [n_layers]
    float *rope_divisors; // [n_rot / 2] or NULL: Llama 3
    float *rope_long;     // [n_rot / 2] or NULL: LongRoPE, beyond the original context
    float *rope_short;    // likewise, within it
};

// hparams.c: fills info, eps and attn_scale from the metadata. EUNSUPPORTED names an architecture
// or a feature that the runner lacks.
FATHOM_MUST_USE fathom_status hparams_read(struct fathom_model *model);

// placement.c: how many layers' weights the device is to hold, those of the last.
FATHOM_MUST_USE fathom_status placement_choose(const struct fathom_model *model,
                                               const struct fathom_model_params *params,
                                               uint32_t *n_device_layers);

// weights.c: opens every tensor that the architecture needs, on model->device.
FATHOM_MUST_USE fathom_status weights_open(struct fathom_model *model,
                                           const struct fathom_model_params *params);
// Accepts what a failed weights_open left.
void weights_close(struct fathom_model *model);

#endif
