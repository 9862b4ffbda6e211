// Which layers' weights lie in a device's own memory, where there is less of it than of weights.
//
// The last layers do, as in llama.cpp. The output's weights always do: a copy of them, which one
// token of a pass needs, would take as much room as they.

#include <string.h>

#include "src/model/gguf_file.h"
#include "src/model/model.h"

// The layer that a tensor belongs to; UINT32_MAX: none.
static uint32_t layer_of(const struct fathom_gguf_tensor *tensor)
{
    const struct fathom_gguf_string name = tensor->name;
    uint64_t layer = 0;
    size_t i = 4;
    if (name.bytes < i || memcmp(name.text, "blk.", i) != 0) return UINT32_MAX;
    for (; i < name.bytes && name.text[i] >= '0' && name.text[i] <= '9' && layer < UINT32_MAX; i++)
        layer = layer * 10 + (uint64_t)(name.text[i] - '0');
    return i < name.bytes && name.text[i] == '.' && layer < UINT32_MAX ? (uint32_t)layer
                                                                       : UINT32_MAX;
}

uint64_t placement_layers_bytes(const struct fathom_model *model, uint32_t begin, uint32_t end)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < fathom_gguf_tensor_count(model->gguf); i++) {
        const struct fathom_gguf_tensor *t = fathom_gguf_tensor_at(model->gguf, i);
        const uint32_t layer = layer_of(t);
        if (layer >= begin && layer < end) bytes += t->bytes;
    }
    return bytes;
}

// Of the output's weights, and of the largest tensor of a layer: where one layer stays in RAM, the
// device needs room for it.
static uint64_t constant_bytes(const struct fathom_model *model)
{
    const struct fathom_gguf_tensor *output = fathom_gguf_tensor_find(model->gguf, "output.weight");
    uint64_t visitor = 0;
    if (output == NULL) output = fathom_gguf_tensor_find(model->gguf, "token_embd.weight");
    for (size_t i = 0; i < fathom_gguf_tensor_count(model->gguf); i++) {
        const struct fathom_gguf_tensor *t = fathom_gguf_tensor_at(model->gguf, i);
        if (layer_of(t) != UINT32_MAX && t->bytes > visitor) visitor = t->bytes;
    }
    return (output != NULL ? output->bytes : 0) + visitor;
}

uint32_t placement_count(const struct fathom_model *model, const struct fathom_model_params *params)
{
    const uint32_t n_layers = model->info.n_layers;
    const uint64_t n_free = fathom_device_free_bytes(params->device);
    if (n_free == 0 || params->n_device_layers == FATHOM_LAYERS_ALL) return n_layers;
    if (params->n_device_layers != FATHOM_LAYERS_FIT)
        return params->n_device_layers < n_layers ? params->n_device_layers : n_layers;
    const uint64_t taken = params->reserve_bytes + constant_bytes(model);
    uint32_t n = 0;
    while (n < n_layers &&
           taken + placement_layers_bytes(model, n_layers - 1 - n, n_layers) <= n_free)
        n++;
    return n;
}
