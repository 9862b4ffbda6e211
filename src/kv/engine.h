// The engine's inside: shape, rotary tables and the slots of sequences.
//
// Owned by the thread that calls the public API; nothing here is locked.

#ifndef FATHOM_SRC_KV_ENGINE_H
#define FATHOM_SRC_KV_ENGINE_H

#include "fathom/fathom.h"
#include "src/iface/device.h"

// One sequence's rows. Keys and values lie in one reservation of the device, K first:
//     [n_layers, n_kv_heads, n_tokens_max, d_k], then [n_layers, n_kv_heads, n_tokens_max, d_v]
struct slot {
    uint32_t generation;  // odd while the slot is in use
    uint32_t n_tokens;    // of ended steps
    uint32_t step_tokens; // 0: no step is open
    uint32_t n_appended;  // layers that have the open step's rows
    bool *appended;       // [n_layers], of the open step
    uint8_t *dev_rows;    // NULL until the slot's first use; likewise
    float *dev_cos_sin;   // [n_step_max, n_rot / 2, 2] of the open step; NULL: not rotated
};

struct fathom_engine {
    fathom_device *device; // held
    struct fathom_engine_params params;
    size_t k_row_bytes;
    size_t v_row_bytes;
    size_t slot_bytes;
    struct slot *slots;  // [n_seqs_max]
    double *frequencies; // [n_rot / 2], radians a token; NULL: keys are not rotated
    float magnitude;     // of cos and sin
    float *cos_sin;      // [n_step_max, n_rot / 2, 2] on its way to a slot's dev_cos_sin
    size_t table_bytes;  // of it
};

#endif
