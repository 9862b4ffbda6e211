// The model runner: GGUF models, their tokenizers, the forward pass, chat templates, sampling.
//
//     fathom_model_open(path, &model_params, &model);       // with a device: weights are packed
//     fathom_tokenize(model, text, ...);
//     fathom_runner_open(model, &runner_params, &runner);   // scratch and a KV engine
//     fathom_seq_create(fathom_runner_engine(runner), &seq);
//     fathom_runner_feed_pick(runner, seq, ids, n, sampler, &id);   // the prompt
//     fathom_runner_feed_pick(runner, seq, &id, 1, sampler, &id);   // token after token
//
// Threads: a model is read-only after open and may be shared; a runner and a sampler belong to one
// thread at a time.

#ifndef FATHOM_MODEL_H
#define FATHOM_MODEL_H

#include "fathom/fathom.h"
#include "fathom/gguf.h"

#ifdef __cplusplus
extern "C" {
#endif

// ---- Model --------------------------------------------------------------------------------------

typedef struct fathom_model fathom_model;

#define FATHOM_LAYERS_ALL UINT32_MAX
#define FATHOM_LAYERS_FIT (UINT32_MAX - 1)
// Of a device's free memory this part, 1 / 32, is not counted on.
#define FATHOM_FIT_MARGIN 32

struct fathom_model_params {
    uint32_t struct_bytes;
    fathom_device *device;       // held; NULL (default): metadata and vocabulary only, no weights
    fathom_progress_fn progress; // over bytes of weights; may be NULL
    void *progress_user;
    const char *const *overrides; // "KEY=int:V", "KEY=float:V", "KEY=bool:V", "KEY=str:V"
    uint32_t n_overrides;         // (llama.cpp's --override-kv), applied to the metadata
    // Layers, the last ones, whose weights a device's own memory holds (llama.cpp's n_gpu_layers).
    // Those of the others stay in RAM and are copied in every pass. FATHOM_LAYERS_ALL (default), or
    // FATHOM_LAYERS_FIT: as many as leave room for a cache of n_fit_tokens tokens (default 4096) of
    // fit_kv_type (FATHOM_TYPE_F16) and for a runner of n_fit_batch (512). Of no meaning to a
    // device that works in the host's memory.
    uint32_t n_device_layers;
    uint32_t n_fit_tokens;
    uint32_t n_fit_batch;
    int32_t fit_kv_type;
};

struct fathom_model_info {
    const char *architecture; // "llama", "qwen2", "qwen3"; "" if the file has no tensors: then only
                              // the vocabulary's fields below are filled
    const char *name;         // general.name, or ""
    const char *chat_template; // tokenizer.chat_template, or NULL
    uint32_t n_layers;
    uint32_t n_tokens_train; // context_length
    uint32_t n_vocab;
    uint32_t d_model;
    uint32_t d_ff;
    uint32_t n_heads;
    uint32_t n_kv_heads;
    uint32_t d_k;
    uint32_t d_v;
    uint64_t n_parameters;    // of the tensors in the file
    uint64_t weight_bytes;    // of the tensors in the file
    uint32_t n_device_layers; // of a model with weights: see fathom_model_params
    uint64_t streamed_bytes;  // of the weights that every pass copies, as the file has them
    int32_t bos_id;           // -1: none; likewise below
    int32_t eos_id;
    bool add_bos;            // the tokenizer wants BOS before a text
    struct fathom_rope rope; // from the file; divisors only of a model with weights, until close
};

FATHOM_API void fathom_model_params_init(struct fathom_model_params *params);

// ECORRUPT, EIO: see fathom_gguf_open. EUNSUPPORTED names an unknown architecture, tokenizer or
// weight type; ECORRUPT a missing tensor or key, or one of the wrong shape.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_model_open(const char *path,
                                                           const struct fathom_model_params *params,
                                                           fathom_model **model);
FATHOM_API void fathom_model_close(fathom_model **model);
FATHOM_API const struct fathom_model_info *fathom_model_info(const fathom_model *model);

// ---- Tokenizer ----------------------------------------------------------------------------------

enum fathom_tokenize_flags {
    FATHOM_TOKENIZE_BOS = 1u << 0, // put BOS first, if the model's tokenizer wants one
    FATHOM_TOKENIZE_SPECIAL =
        1u << 1, // spellings of control tokens in the text become those tokens
};

// Token ids of a text, linear in its length. Two calls: ids NULL or capacity too small gives
// FATHOM_PARTIAL and *n_ids is what is needed. Any bytes are legal text.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_tokenize(const fathom_model *model,
                                                         const char *text, size_t text_bytes,
                                                         uint32_t flags, int32_t *ids,
                                                         size_t capacity, size_t *n_ids);

// Bytes that one id stands for; control tokens give "" unless `special`. Points into the model, or
// NULL for an id that the vocabulary lacks. The text may end inside a UTF-8 character. Note for
// SentencePiece vocabularies: the space put before a text's first word is part of its first token.
FATHOM_API const char *fathom_token_text(const fathom_model *model, int32_t id, bool special,
                                         size_t *bytes);

// Text of ids, as fathom_token_text of each, less the space that the tokenizer put before the first
// word (SentencePiece). BOS at the front is dropped unless `special`. Two calls as above; no
// terminator is written.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_detokenize(const fathom_model *model,
                                                           const int32_t *ids, size_t n_ids,
                                                           bool special, char *text,
                                                           size_t capacity, size_t *text_bytes);

// Whether the id ends a generation (EOS, end of turn, end of message).
FATHOM_API bool fathom_token_ends(const fathom_model *model, int32_t id);

// ---- Chat ---------------------------------------------------------------------------------------

struct fathom_chat_message {
    const char *role;    // "system", "user", "assistant"
    const char *content; // zero-terminated
};

// Name of the built-in template that fits the model's tokenizer.chat_template: "llama3", "chatml",
// "qwen3", "mistral", "llama2", "phi3", "zephyr"; NULL if the model has none or it is not known.
FATHOM_API const char *fathom_chat_detect(const fathom_model *model);

// The messages as one prompt, with the opening of the assistant's turn if add_assistant. `name`
// NULL: fathom_chat_detect; `model` NULL: the newest of the format's variants. EUNSUPPORTED lists
// the names. Two calls as above; no terminator is written. It spells no BOS itself. For feeding,
// see fathom_chat_tokenize: with FATHOM_TOKENIZE_SPECIAL, control tokens that a message spells
// would be obeyed.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_chat_format(
    const fathom_model *model, const char *name, const struct fathom_chat_message *messages,
    size_t n_messages, bool add_assistant, char *text, size_t capacity, size_t *text_bytes);

// Ids of fathom_chat_format's text, BOS first if the model's tokenizer wants one. The template's
// control tokens are tokens; what a message's content spells like one stays text, so that it cannot
// end its turn or begin another's. Two calls as above.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_chat_tokenize(
    const fathom_model *model, const char *name, const struct fathom_chat_message *messages,
    size_t n_messages, bool add_assistant, int32_t *ids, size_t capacity, size_t *n_ids);

// ---- Runner -------------------------------------------------------------------------------------

typedef struct fathom_runner fathom_runner;
typedef struct fathom_sampler fathom_sampler;

struct fathom_runner_params {
    uint32_t struct_bytes;
    uint32_t n_tokens_max;   // context; 0 (default): n_tokens_train
    uint32_t n_batch;        // most tokens in one pass; default 512
    uint32_t n_seqs_max;     // default 1
    int32_t kv_type;         // FATHOM_TYPE_F16 (default), BF16, F32
    struct fathom_rope rope; // default: the model's own; longrope's divisors, if NULL, are chosen
                             // by n_tokens_max
    struct fathom_kv_params kv;
};

// Fills the defaults; rope is taken from the model, ready to be changed.
FATHOM_API void fathom_runner_params_init(struct fathom_runner_params *params,
                                          const fathom_model *model);

// EINVAL if the model was opened without a device.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_runner_open(
    const fathom_model *model, const struct fathom_runner_params *params, fathom_runner **runner);
FATHOM_API void fathom_runner_close(fathom_runner **runner);

// Bytes of the device's memory that a runner of that n_batch takes beside its cache.
FATHOM_API uint64_t fathom_runner_bytes(const fathom_model *model, uint32_t n_batch);

// The runner's KV engine: for fathom_seq_create, fathom_seq_truncate and the like.
FATHOM_API fathom_engine *fathom_runner_engine(fathom_runner *runner);

// Feeds up to n_batch tokens to the sequence, as one step of the engine: where prompts are read
// sparsely a prompt's last ones are best fewer than n_batch (see enum fathom_kv_prefill). logits:
// [n_vocab] of the last token, or NULL. all_logits: [n_ids, n_vocab] of every token, or NULL.
// EINVAL for an id outside the vocabulary, EFULL when the context is full; after an error the
// sequence is as it was before the call.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_runner_feed(fathom_runner *runner,
                                                            struct fathom_seq seq,
                                                            const int32_t *ids, uint32_t n_ids,
                                                            float *logits, float *all_logits);

// Feeds likewise, and picks the token that follows: what fathom_sampler_pick picks from the last
// one's logits. On a GPU these stay there where the sampler can do with the 256 best: greedily or
// with a top_k, and a repeat_penalty of 1 or more. next_id may be where ids lie. EINVAL too if none
// may be picked.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_runner_feed_pick(fathom_runner *runner,
                                                                 struct fathom_seq seq,
                                                                 const int32_t *ids, uint32_t n_ids,
                                                                 fathom_sampler *sampler,
                                                                 int32_t *next_id);

// ---- Sampling -----------------------------------------------------------------------------------

// Order: repeat penalty, top-k, top-p, min-p, temperature, draw: llama.cpp's.
struct fathom_sampler_params {
    uint32_t struct_bytes;
    uint32_t top_k;       // 0: all; default 40
    float temperature;    // 0 or less: greedy; default 0.8
    float top_p;          // 1: off; default 0.95
    float min_p;          // 0: off; default 0.05
    float repeat_penalty; // 1: off (default); see Keskar et al. 2019
    uint32_t n_repeat;    // newest tokens that it looks at; default 64
    uint64_t seed;
};

FATHOM_API void fathom_sampler_params_init(struct fathom_sampler_params *params);
FATHOM_API FATHOM_MUST_USE fathom_status fathom_sampler_open(
    const struct fathom_sampler_params *params, uint32_t n_vocab, fathom_sampler **sampler);
FATHOM_API void fathom_sampler_close(fathom_sampler **sampler);
// Tells the sampler of a token of the text (prompt or generated), for the repeat penalty.
FATHOM_API void fathom_sampler_accept(fathom_sampler *sampler, int32_t id);
// From now on never picks that token.
FATHOM_API void fathom_sampler_ban(fathom_sampler *sampler, int32_t id);
// Picks from logits [n_vocab], which are left as they are. EINVAL if none of them is finite, or all
// that are finite are banned.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_sampler_pick(fathom_sampler *sampler,
                                                             const float *logits, int32_t *id);

#ifdef __cplusplus
}
#endif

#endif
