// Which layers' weights a GPU holds, on behalf of the commands (-ngl).

#include "tools/rig_layers.h"

#include <string.h>

#include "tools/say.h"

int32_t rig_kv_type(const struct rig_options *options)
{
    const char *name = options->type_k != NULL ? options->type_k : options->type_default;
    if (strcmp(name, "f32") == 0) return FATHOM_TYPE_F32;
    return strcmp(name, "bf16") == 0 ? FATHOM_TYPE_BF16 : FATHOM_TYPE_F16;
}

uint64_t rig_token_bits(const struct fathom_model_info *info, uint64_t value_bits)
{
    return value_bits * info->n_layers * info->n_kv_heads * (info->d_k + info->d_v);
}

// What a device with memory of its own is to keep free of weights: the context, and an eighth of
// what there is now, for activations. That is known when the file has been looked into.
static int reserve_context(const struct rig *rig, const struct rig_options *options,
                           struct fathom_model_params *params)
{
    struct fathom_model_params of_file = *params;
    fathom_model *file;
    of_file.device = NULL;
    SAY_TRY(say_status(fathom_model_open(options->path, &of_file, &file)));
    const uint64_t n_tokens = options->n_ctx > 0 ? options->n_ctx : RIG_CTX_LEAST;
    const uint64_t value_bits = rig_kv_type(options) == FATHOM_TYPE_F32 ? 32 : 16;
    params->reserve_bytes = n_tokens * rig_token_bits(fathom_model_info(file), value_bits) / 8 +
                            fathom_device_free_bytes(rig->device) / 8;
    fathom_model_close(&file);
    return EXIT_GOOD;
}

int rig_place_layers(const struct rig *rig, const struct rig_options *options,
                     struct fathom_model_params *params)
{
    if (rig->device == NULL || fathom_device_free_bytes(rig->device) == 0) return EXIT_GOOD;
    params->n_device_layers = FATHOM_LAYERS_FIT;
    if (options->n_gpu_layers < 0) return reserve_context(rig, options, params);
    params->n_device_layers = options->n_gpu_layers < FATHOM_LAYERS_FIT
                                  ? (uint32_t)options->n_gpu_layers
                                  : FATHOM_LAYERS_ALL;
    return EXIT_GOOD;
}

void rig_say_placement(const struct rig *rig, const struct rig_options *options)
{
    const struct fathom_model_info *info = rig->info;
    if (rig->log_level < FATHOM_LOG_WARN) return;
    if (options->n_gpu_layers > 0 && fathom_device_free_bytes(rig->device) == 0)
        say_note("-ngl: makes no difference without a GPU (--device)");
    if (info->n_device_layers < info->n_layers)
        say_note("weights of %u of %u layers, %.1f MiB, stay in RAM and are copied to the GPU in "
                 "every pass",
                 info->n_layers - info->n_device_layers, info->n_layers,
                 (double)info->streamed_bytes / 1048576);
}
