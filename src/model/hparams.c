// Reads a model's hyperparameters from metadata, and refuses what the forward pass cannot do.

#include "src/model/model.h"

#include <inttypes.h>
#include <string.h>

#include "src/base/status.h"

// What the architectures differ in.
struct architecture {
    const char *name;
    int32_t pairing; // enum fathom_rope_pairing
};

static const struct architecture architectures[] = {
    {"llama", FATHOM_ROPE_ADJACENT}, // also Mistral
    {"qwen2", FATHOM_ROPE_HALVES},
    {"qwen3", FATHOM_ROPE_HALVES},
};

static fathom_status find_architecture(const struct fathom_model *model,
                                       const struct architecture **architecture)
{
    struct fathom_gguf_string name;
    FATHOM_TRY(metadata_string(model->metadata, "general.architecture", NULL, &name));
    if (name.text == NULL)
        return status_set(FATHOM_ECORRUPT, "general.architecture is missing: not a model file");
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++) {
        if (strlen(architectures[i].name) == name.bytes &&
            memcmp(architectures[i].name, name.text, name.bytes) == 0) {
            *architecture = &architectures[i];
            return FATHOM_OK;
        }
    }
    return status_set(FATHOM_EUNSUPPORTED,
                      "architecture \"%.*s\" is not supported: llama, qwen2 and qwen3 are",
                      (int)(name.bytes < 64 ? name.bytes : 64), name.text);
}

// A number that files give as a scalar or as an array with an item for each layer; the layers must
// agree.
static fathom_status read_uniform(const struct fathom_model *model, const char *key,
                                  uint32_t fallback, uint32_t *out)
{
    const struct fathom_gguf_entry *entry;
    FATHOM_TRY(metadata_array(model->metadata, key, FATHOM_GGUF_INT32, &entry));
    if (entry == NULL) return metadata_u32(model->metadata, key, fallback, out);
    const struct fathom_gguf_string *name = &entry->key;
    int64_t first = -1;
    for (uint64_t i = 0; i < entry->n_items; i++) {
        int64_t item;
        FATHOM_TRY(fathom_gguf_as_int(model->gguf, entry, i, &item));
        if (i == 0) first = item;
        if (item != first)
            return status_set(FATHOM_EUNSUPPORTED,
                              "%.*s differs between layers: such models are not supported",
                              (int)name->bytes, name->text);
    }
    if (first < 0 || first > INT32_MAX)
        return status_set(FATHOM_ECORRUPT, "%.*s=%" PRId64 ": out of range", (int)name->bytes,
                          name->text, first);
    *out = (uint32_t)first;
    return FATHOM_OK;
}

static fathom_status require(const char *key, uint32_t value, uint32_t most)
{
    if (value == 0) return status_set(FATHOM_ECORRUPT, "%s is missing or 0", key);
    if (value > most)
        return status_set(FATHOM_EUNSUPPORTED, "%s=%u: at most %u is supported", key, value, most);
    return FATHOM_OK;
}

static fathom_status read_shape(struct fathom_model *model)
{
    const struct metadata *m = model->metadata;
    struct fathom_model_info *info = &model->info;
    FATHOM_TRY(metadata_u32(m, "%s.context_length", 0, &info->n_tokens_train));
    FATHOM_TRY(metadata_u32(m, "%s.embedding_length", 0, &info->d_model));
    FATHOM_TRY(metadata_u32(m, "%s.block_count", 0, &info->n_layers));
    FATHOM_TRY(read_uniform(model, "%s.feed_forward_length", 0, &info->d_ff));
    FATHOM_TRY(read_uniform(model, "%s.attention.head_count", 0, &info->n_heads));
    FATHOM_TRY(read_uniform(model, "%s.attention.head_count_kv", info->n_heads, &info->n_kv_heads));
    FATHOM_TRY(require("context_length", info->n_tokens_train, 1u << 28));
    FATHOM_TRY(require("embedding_length", info->d_model, 1u << 20));
    FATHOM_TRY(require("block_count", info->n_layers, 4096));
    FATHOM_TRY(require("feed_forward_length", info->d_ff, 1u << 22));
    FATHOM_TRY(require("attention.head_count", info->n_heads, 65536));
    FATHOM_TRY(require("attention.head_count_kv", info->n_kv_heads, info->n_heads));
    const uint32_t d_head = info->d_model / info->n_heads;
    FATHOM_TRY(metadata_u32(m, "%s.attention.key_length", d_head, &info->d_k));
    FATHOM_TRY(metadata_u32(m, "%s.attention.value_length", d_head, &info->d_v));
    FATHOM_TRY(require("attention.key_length", info->d_k, 256));
    FATHOM_TRY(require("attention.value_length", info->d_v, 256));
    if (info->n_heads % info->n_kv_heads != 0)
        return status_set(FATHOM_ECORRUPT,
                          "attention.head_count_kv=%u does not divide head_count=%u",
                          info->n_kv_heads, info->n_heads);
    FATHOM_TRY(metadata_f32(m, "%s.attention.layer_norm_rms_epsilon", 0.0f, &model->eps));
    if (!(model->eps > 0.0f) || model->eps > 1.0f)
        return status_set(FATHOM_ECORRUPT,
                          "attention.layer_norm_rms_epsilon is missing or out of range");
    return metadata_f32(m, "%s.attention.scale", 0.0f, &model->attn_scale);
}

static fathom_status read_scaling(struct fathom_model *model, struct fathom_rope *rope)
{
    const struct metadata *m = model->metadata;
    struct fathom_gguf_string type;
    float legacy;
    FATHOM_TRY(metadata_f32(m, "%s.rope.scale_linear", 1.0f, &legacy));
    FATHOM_TRY(metadata_f32(m, "%s.rope.scaling.factor", legacy, &rope->factor));
    FATHOM_TRY(metadata_f32(m, "%s.rope.scaling.attn_factor", 1.0f, &rope->attn_factor));
    FATHOM_TRY(metadata_u32(m, "%s.rope.scaling.original_context_length",
                            model->info.n_tokens_train, &rope->n_orig_tokens));
    FATHOM_TRY(metadata_f32(m, "%s.rope.scaling.yarn_ext_factor", 1.0f, &rope->ext_factor));
    FATHOM_TRY(metadata_f32(m, "%s.rope.scaling.yarn_beta_fast", 32.0f, &rope->beta_fast));
    FATHOM_TRY(metadata_f32(m, "%s.rope.scaling.yarn_beta_slow", 1.0f, &rope->beta_slow));
    FATHOM_TRY(
        metadata_f32(m, "%s.rope.scaling.yarn_attn_factor", rope->attn_factor, &rope->attn_factor));
    if (rope->factor == 0.0f) rope->factor = 1.0f;
    FATHOM_TRY(metadata_string(m, "%s.rope.scaling.type", "linear", &type));
    static const struct {
        const char *name;
        int32_t scaling;
    } types[] = {
        {"none", FATHOM_ROPE_SCALING_NONE},
        {"linear", FATHOM_ROPE_SCALING_LINEAR},
        {"yarn", FATHOM_ROPE_SCALING_YARN},
        {"longrope", FATHOM_ROPE_SCALING_LONGROPE},
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strlen(types[i].name) != type.bytes ||
            memcmp(types[i].name, type.text, type.bytes) != 0)
            continue;
        rope->scaling = types[i].scaling;
        return FATHOM_OK;
    }
    return status_set(
        FATHOM_EUNSUPPORTED,
        "rope.scaling.type \"%.*s\" is not supported: none, linear, yarn and longrope "
        "are",
        (int)(type.bytes < 64 ? type.bytes : 64), type.text);
}

static fathom_status read_rope(struct fathom_model *model, int32_t pairing)
{
    struct fathom_rope *rope = &model->info.rope;
    const uint32_t d = model->info.d_k & ~1u; // pairs are turned: of an odd head all but the last
    rope->pairing = pairing;
    FATHOM_TRY(metadata_u32(model->metadata, "%s.rope.dimension_count", d, &rope->n_rot));
    if (rope->n_rot == 0 || rope->n_rot % 2 != 0 || rope->n_rot > d)
        return status_set(FATHOM_ECORRUPT,
                          "rope.dimension_count=%u: must be even, 2 or more, and at most the head "
                          "size, %u",
                          rope->n_rot, model->info.d_k);
    FATHOM_TRY(metadata_f32(model->metadata, "%s.rope.freq_base", 10000.0f, &rope->base));
    return read_scaling(model, rope);
}

static fathom_status refuse(const struct fathom_model *model)
{
    uint32_t n_experts;
    uint32_t n_files;
    FATHOM_TRY(metadata_u32(model->metadata, "%s.expert_count", 0, &n_experts));
    if (n_experts > 0)
        return status_set(FATHOM_EUNSUPPORTED, "a mixture of %u experts is not supported",
                          n_experts);
    FATHOM_TRY(metadata_u32(model->metadata, "split.count", 1, &n_files));
    if (n_files > 1)
        return status_set(
            FATHOM_EUNSUPPORTED,
            "the model is split into %u files: merge them with llama.cpp's gguf-split", n_files);
    return FATHOM_OK;
}

static fathom_status read_texts(struct fathom_model *model)
{
    struct fathom_gguf_string text;
    char *copy;
    FATHOM_TRY(metadata_string(model->metadata, "general.name", "", &text));
    FATHOM_TRY(arena_string(&model->arena, text.text, text.bytes, &copy));
    model->info.name = copy;
    FATHOM_TRY(metadata_string(model->metadata, "tokenizer.chat_template", NULL, &text));
    if (text.text == NULL) return FATHOM_OK;
    FATHOM_TRY(arena_string(&model->arena, text.text, text.bytes, &copy));
    model->info.chat_template = copy;
    return FATHOM_OK;
}

static void count_weights(struct fathom_model *model)
{
    for (size_t i = 0; i < fathom_gguf_tensor_count(model->gguf); i++) {
        const struct fathom_gguf_tensor *t = fathom_gguf_tensor_at(model->gguf, i);
        model->info.n_parameters += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
        model->info.weight_bytes += t->bytes;
    }
}

fathom_status hparams_read(struct fathom_model *model)
{
    const struct architecture *architecture = NULL;
    FATHOM_TRY(find_architecture(model, &architecture));
    model->info.architecture = architecture->name;
    FATHOM_TRY(refuse(model));
    FATHOM_TRY(read_texts(model));
    count_weights(model);
    FATHOM_TRY(read_shape(model));
    return read_rope(model, architecture->pairing);
}
