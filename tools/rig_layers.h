// Where a model's weights lie, and what its cache takes. Part of the rig, which alone includes it.

#ifndef FATHOM_TOOLS_RIG_LAYERS_H
#define FATHOM_TOOLS_RIG_LAYERS_H

#include "tools/rig.h"

// Tokens of a context that a device is to have room for, where none is asked for.
enum { RIG_CTX_LEAST = 4096 };

// Of keys and values that are not sealed.
int32_t rig_kv_type(const struct rig_options *options);

// Bits of a cached token whose values have so many.
uint64_t rig_token_bits(const struct fathom_model_info *info, uint64_t value_bits);

// Sets what -ngl says, or leaves room for the context; rig->device is open.
int rig_place_layers(const struct rig *rig, const struct rig_options *options,
                     struct fathom_model_params *params);

// Of the model that was opened so.
void rig_say_placement(const struct rig *rig, const struct rig_options *options);

#endif
