// A model's life, and the public calls that ask it things.

#include "src/model/model.h"

#include <string.h>

#include "src/base/status.h"
#include "src/model/chat.h"

void fathom_model_params_init(struct fathom_model_params *params)
{
    memset(params, 0, sizeof *params);
    params->struct_bytes = sizeof *params;
    params->n_device_layers = FATHOM_LAYERS_ALL;
    params->n_fit_tokens = 4096;
    params->n_fit_batch = 512;
    params->fit_kv_type = FATHOM_TYPE_F16;
}

static fathom_status read_vocab(struct fathom_model *model)
{
    FATHOM_TRY(vocab_open(model->metadata, &model->vocab));
    model->info.n_vocab = vocab_count(model->vocab);
    model->info.bos_id = vocab_bos(model->vocab);
    model->info.eos_id = vocab_eos(model->vocab);
    model->info.add_bos = vocab_adds_bos(model->vocab);
    return FATHOM_OK;
}

fathom_status fathom_model_open(const char *path, const struct fathom_model_params *params,
                                fathom_model **model)
{
    fathom_model *m = NULL;
    fathom_status status;
    if (path == NULL || params == NULL || model == NULL)
        return status_set(FATHOM_EINVAL, "fathom_model_open: NULL argument");
    if (params->struct_bytes != sizeof *params)
        return status_set(FATHOM_EINVAL,
                          "model params: struct_bytes=%u: call "
                          "fathom_model_params_init first",
                          params->struct_bytes);
    FATHOM_TRY(mem_new(1, sizeof *m, "model", &m));
    m->info.architecture = "";
    m->info.name = "";
    FATHOM_CHECK(fathom_gguf_open(path, &m->gguf), out);
    FATHOM_CHECK(metadata_open(m->gguf, params->overrides, params->n_overrides, &m->metadata),
                 file);
    if (fathom_gguf_tensor_count(m->gguf) > 0) {
        FATHOM_CHECK(hparams_read(m), file);
    } else if (params->device != NULL) {
        // Without weights it may serve as a tokenizer, whatever its architecture.
        status = status_set(FATHOM_EINVAL, "the file has no weights: it cannot be run");
        goto file;
    }
    FATHOM_CHECK(read_vocab(m), file);
    // A file without weights has its vocabulary looked up alone.
    if (fathom_gguf_tensor_count(m->gguf) > 0)
        FATHOM_CHECK(metadata_check_overrides(m->metadata), file);
    if (params->device != NULL) FATHOM_CHECK(weights_open(m, params), file);
    *model = m;
    return FATHOM_OK;
file:
    status = status_prefix(status, "%s", path);
out:
    fathom_model_close(&m);
    return status;
}

void fathom_model_close(fathom_model **model)
{
    if (model == NULL || *model == NULL) return;
    fathom_model *m = *model;
    weights_close(m);
    vocab_close(&m->vocab);
    metadata_close(&m->metadata);
    fathom_gguf_close(&m->gguf);
    arena_fini(&m->arena);
    mem_free(m);
    *model = NULL;
}

const struct fathom_model_info *fathom_model_info(const fathom_model *model)
{
    return &model->info;
}

fathom_status fathom_tokenize(const fathom_model *model, const char *text, size_t text_bytes,
                              uint32_t flags, int32_t *ids, size_t capacity, size_t *n_ids)
{
    return vocab_tokenize(model->vocab, text, text_bytes, flags, ids, capacity, n_ids);
}

const char *fathom_token_text(const fathom_model *model, int32_t id, bool special, size_t *bytes)
{
    return vocab_text(model->vocab, id, special, bytes);
}

fathom_status fathom_detokenize(const fathom_model *model, const int32_t *ids, size_t n_ids,
                                bool special, char *text, size_t capacity, size_t *text_bytes)
{
    return vocab_detokenize(model->vocab, ids, n_ids, special, text, capacity, text_bytes);
}

bool fathom_token_ends(const fathom_model *model, int32_t id)
{
    return vocab_ends(model->vocab, id);
}

const char *fathom_chat_detect(const fathom_model *model)
{
    return chat_detect(model->info.chat_template);
}

fathom_status fathom_chat_format(const fathom_model *model, const char *name,
                                 const struct fathom_chat_message *messages, size_t n_messages,
                                 bool add_assistant, char *text, size_t capacity,
                                 size_t *text_bytes)
{
    const char *jinja = model != NULL ? model->info.chat_template : NULL;
    return chat_format(name, jinja, messages, n_messages, add_assistant, text, capacity, text_bytes,
                       NULL);
}

fathom_status fathom_chat_tokenize(const fathom_model *model, const char *name,
                                   const struct fathom_chat_message *messages, size_t n_messages,
                                   bool add_assistant, int32_t *ids, size_t capacity, size_t *n_ids)
{
    const uint32_t flags = FATHOM_TOKENIZE_SPECIAL | FATHOM_TOKENIZE_BOS;
    const char *jinja = model->info.chat_template;
    struct vocab_span *contents = NULL;
    char *text = NULL;
    size_t bytes = 0;
    if (name == NULL) name = fathom_chat_detect(model);
    fathom_status status =
        chat_format(name, jinja, messages, n_messages, add_assistant, NULL, 0, &bytes, NULL);
    if (status < 0) return status;
    FATHOM_CHECK(mem_new(bytes, 1, "the conversation's text", &text), out);
    FATHOM_CHECK(mem_new(n_messages, sizeof *contents, "messages", &contents), out);
    FATHOM_CHECK(chat_format(name, jinja, messages, n_messages, add_assistant, text, bytes, &bytes,
                             contents),
                 out);
    status = vocab_tokenize_chat(model->vocab, text, bytes, flags, contents, n_messages, ids,
                                 capacity, n_ids);
out:
    mem_free(contents);
    mem_free(text);
    return status;
}
