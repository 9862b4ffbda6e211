// Which layers' weights lie in a device's own memory, where there is less of it than of weights.
//
// The last layers do, as in llama.cpp. The output's weights always do: a copy of them, which one
// token of a pass needs, would take as much room as they.

#include <string.h>

#include "src/base/dtype.h"
#include "src/base/status.h"
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

// What is to be left for a cache and for passes, and a little that allocations lose.
static double needed_bytes(const struct fathom_model *model,
                           const struct fathom_model_params *params, uint64_t n_free)
{
    const struct fathom_model_info *info = &model->info;
    const double values =
        (double)info->n_layers * info->n_kv_heads * ((double)info->d_k + info->d_v);
    return params->n_fit_tokens * values * (double)dtype_row_bytes(params->fit_kv_type, 1) +
           (double)fathom_runner_bytes(model, params->n_fit_batch) +
           (double)n_free / FATHOM_FIT_MARGIN;
}

fathom_status placement_choose(const struct fathom_model *model,
                               const struct fathom_model_params *params, uint32_t *n_device_layers)
{
    const uint32_t n_layers = model->info.n_layers;
    const uint64_t n_free = fathom_device_free_bytes(params->device);
    if (dtype_find(params->fit_kv_type) == NULL)
        return status_set(FATHOM_EINVAL, "fit_kv_type=%d is no type", (int)params->fit_kv_type);
    uint64_t *layer_bytes, all_bytes = 0, largest = 0;
    *n_device_layers = params->n_device_layers < n_layers ? params->n_device_layers : n_layers;
    if (n_free == 0) *n_device_layers = n_layers;
    if (n_free == 0 || params->n_device_layers != FATHOM_LAYERS_FIT) return FATHOM_OK;
    FATHOM_TRY(mem_new(n_layers, sizeof *layer_bytes, "sizes of layers", &layer_bytes));
    for (size_t i = 0; i < fathom_gguf_tensor_count(model->gguf); i++) {
        const struct fathom_gguf_tensor *t = fathom_gguf_tensor_at(model->gguf, i);
        const uint32_t layer = layer_of(t);
        if (layer >= n_layers) continue;
        layer_bytes[layer] += t->bytes;
        all_bytes += t->bytes;
        if (t->bytes > largest) largest = t->bytes;
    }
    const struct fathom_gguf_tensor *output = fathom_gguf_tensor_find(model->gguf, "output.weight");
    if (output == NULL) output = fathom_gguf_tensor_find(model->gguf, "token_embd.weight");
    double left = (double)n_free - needed_bytes(model, params, n_free);
    if (output != NULL) left -= (double)output->bytes;
    // With a layer in RAM the device needs room for the largest weight that comes from there.
    if ((double)all_bytes > left) left -= (double)largest;
    uint32_t n = 0;
    while (n < n_layers && (double)layer_bytes[n_layers - 1 - n] <= left)
        left -= (double)layer_bytes[n_layers - 1 - n++];
    *n_device_layers = n;
    mem_free(layer_bytes);
    return FATHOM_OK;
}
