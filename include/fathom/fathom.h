// The KV cache engine: sequences of keys and values, and attention over them.
//
// Use:
//     fathom_engine_params_init(&params);          // then fill in the shape
//     fathom_engine_open(device, &params, &engine);
//     fathom_seq_create(engine, &seq);
//     for each run of new tokens (a prompt's chunk, or one token):
//         fathom_step_begin(engine, seq, n_tokens);
//         for each layer:
//             fathom_append(engine, seq, layer, k, v);      // keys BEFORE RoPE
//             fathom_attend(engine, seq, layer, q, out);    // queries BEFORE RoPE
//         fathom_step_end(engine, seq);
//
// Steps of several sequences may be open side by side.
//
// Threads: one at a time per engine in this version. Tensors (q, k, v, out) lie in the device's
// memory; on the CPU device that is ordinary memory.

#ifndef FATHOM_FATHOM_H
#define FATHOM_FATHOM_H

#include "fathom/device.h"
#include "fathom/types.h"
#include "fathom/version.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fathom_engine fathom_engine;

// A sequence: one conversation's KV. Checked by generation: a stale handle is FATHOM_EINVAL.
struct fathom_seq {
    uint32_t slot;
    uint32_t generation;
};

// Which elements of a head RoPE turns together.
enum fathom_rope_pairing {
    FATHOM_ROPE_NONE = 0,     // the library does not rotate: keys and queries come as they are
    FATHOM_ROPE_ADJACENT = 1, // (2i, 2i+1): GGUF `llama`
    FATHOM_ROPE_HALVES = 2,   // (i, i + n_rot/2): GGUF `qwen2`, `qwen3` (NeoX)
};

enum fathom_rope_scaling {
    FATHOM_ROPE_SCALING_NONE = 0,
    FATHOM_ROPE_SCALING_LINEAR = 1,
    FATHOM_ROPE_SCALING_YARN = 2,     // Peng et al. 2023, arXiv 2309.00071
    FATHOM_ROPE_SCALING_LONGROPE = 3, // Ding et al. 2024, arXiv 2402.13753: divisors + attn_factor
};

// Rotary position embedding (Su et al. 2021). The angle of pair i at position p is p * f_i with
// f_i = base^(-2i/n_rot) / divisors[i], then scaled by the method. Llama 3's scaling is divisors
// alone (`rope_freqs.weight` of a GGUF file).
struct fathom_rope {
    int32_t pairing;        // enum fathom_rope_pairing
    int32_t scaling;        // enum fathom_rope_scaling
    uint32_t n_rot;         // leading elements of a head that are turned; even; 0: the whole head
    uint32_t n_orig_tokens; // yarn: the context the model was trained with
    float base;             // default 10000
    float factor;           // linear, yarn: positions are stretched by it, >= 1; default 1
    float attn_factor;      // yarn, longrope: scales cos and sin; default 1
    float ext_factor;       // yarn: share of extrapolation; default 1
    float beta_fast;        // yarn; default 32
    float beta_slow;        // yarn; default 1
    const float *divisors;  // [n_rot / 2] or NULL (not with longrope); read by fathom_engine_open
};

struct fathom_engine_params {
    uint32_t struct_bytes;
    uint32_t n_layers;
    uint32_t n_heads;        // query heads of a layer
    uint32_t n_kv_heads;     // divides n_heads
    uint32_t d_k;            // head size of queries and keys, 1 to 256
    uint32_t d_v;            // head size of values, 1 to 256
    uint32_t n_window;       // sliding-window attention over that many tokens; 0: full attention
    uint32_t n_tokens_max;   // capacity of each sequence; memory is taken as tokens come
    uint32_t n_step_max;     // most tokens in one step; default 512
    uint32_t n_seqs_max;     // default 1
    int32_t kv_type;         // FATHOM_TYPE_F16 (default), BF16 or F32
    float scale;             // of the logits; 0 (default): 1 / sqrt(d_k)
    struct fathom_rope rope; // default: pairing NONE
};

FATHOM_API void fathom_engine_params_init(struct fathom_engine_params *params);

// Opens an engine on the device (held). EINVAL names the field that is out of range.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_engine_open(
    fathom_device *device, const struct fathom_engine_params *params, fathom_engine **engine);
FATHOM_API void fathom_engine_close(fathom_engine **engine);

// A new, empty sequence. EFULL when n_seqs_max are alive.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_seq_create(fathom_engine *engine,
                                                           struct fathom_seq *seq);
FATHOM_API FATHOM_MUST_USE fathom_status fathom_seq_free(fathom_engine *engine,
                                                         struct fathom_seq seq);

// Keeps the first n_keep tokens. EINVAL if the sequence has fewer, or inside a step.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_seq_truncate(fathom_engine *engine,
                                                             struct fathom_seq seq,
                                                             uint32_t n_keep);

// Tokens whose steps have ended.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_seq_count(const fathom_engine *engine,
                                                          struct fathom_seq seq,
                                                          uint32_t *n_tokens);

// Begins a step of n_tokens (1 .. n_step_max) new tokens. EFULL, with nothing changed, if they
// exceed n_tokens_max.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_step_begin(fathom_engine *engine,
                                                           struct fathom_seq seq,
                                                           uint32_t n_tokens);

// Appends the step's keys [n_tokens, n_kv_heads, d_k] and values [n_tokens, n_kv_heads, d_v], f32,
// to one layer; once per layer and step. The keys are rotated on the way; k itself is left as it
// is.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_append(fathom_engine *engine, struct fathom_seq seq,
                                                       uint32_t layer, const float *k,
                                                       const float *v);

// Causal attention of the step's queries q [n_tokens, n_heads, d_k] over everything appended to the
// layer; out [n_tokens, n_heads, d_v], f32; q is left as it is and must not overlap out.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_attend(fathom_engine *engine, struct fathom_seq seq,
                                                       uint32_t layer, const float *q, float *out);

// Ends the step: its tokens now count. EINVAL if a layer was not appended to; the step then stays
// open. fathom_step_cancel drops the step's tokens instead.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_step_end(fathom_engine *engine,
                                                         struct fathom_seq seq);
FATHOM_API void fathom_step_cancel(fathom_engine *engine, struct fathom_seq seq);

// Bytes of keys and values that one token takes, over all layers.
FATHOM_API uint64_t fathom_engine_token_bytes(const fathom_engine *engine);

#ifdef __cplusplus
}
#endif

#endif
