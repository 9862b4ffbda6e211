// Records of what a running model keeps and asks: `fathom run --kv-record DIR` writes them, `fathom
// bench attend --record DIR` replays them.
//
// A folder with index.json and, for each recorded layer L, raw little-endian f16, all after RoPE:
//     layer-L.k.f16  [n_tokens, n_kv_heads, d_k]
//     layer-L.v.f16  [n_tokens, n_kv_heads, d_v]
//     layer-L.q.f16  [n_steps, n_heads, d_k]
// index.json: format "fathom-kv-record", version 1, n_tokens, n_heads, n_kv_heads, d_k, d_v, layers
// (their numbers) and steps (places of the tokens that asked, ascending).

#ifndef FATHOM_TOOLS_KV_RECORD_H
#define FATHOM_TOOLS_KV_RECORD_H

#include "fathom/model.h"
#include "tools/flags.h"
#include "tools/kv_source.h"

#define KV_RECORD_FORMAT "fathom-kv-record"
enum { KV_RECORD_VERSION = 1, KV_RECORD_PATH_BYTES = 4096 };

// ---- Writing ------------------------------------------------------------------------------------

struct kv_record_options {
    const char *folder;        // NULL: nothing is recorded
    struct flag_counts layers; // none: all
    struct flag_counts steps;  // how many, and how many to let pass first
};

#define KV_RECORD_DEFAULTS                                                                         \
    {                                                                                              \
        .steps = { {32}, 1 }                                                                       \
    }

struct flag_group kv_record_flags(struct kv_record_options *options);

struct kv_record;

// Checks what can be checked before a model is loaded.
int kv_record_check(const struct kv_record_options *options);

// Of a run that will feed at most n_single tokens in steps of one, whether any query is left.
int kv_record_check_steps(const struct kv_record_options *options, uint64_t n_single);

// Says so if there is a record that this one will replace.
void kv_record_say_older(const struct kv_record_options *options);

// With options that were checked. Begins to record what goes through the engine, which must outlive
// the record; nothing, with *record NULL, if the options name no folder.
int kv_record_open(const struct kv_record_options *options, const struct fathom_model_info *info,
                   fathom_engine *engine, struct kv_record **record);

// Ends the recording. With `keep`, it takes the place of a record that the folder holds; without,
// or when anything could not be written (which is said), nothing of it stays.
int kv_record_close(struct kv_record **record, bool keep);

// ---- Reading ------------------------------------------------------------------------------------

struct kv_replay;

int kv_replay_open(const char *folder, struct kv_replay **replay);
void kv_replay_close(struct kv_replay **replay);

// Valid until close. Its layers are the recorded ones, counted from 0.
struct kv_source kv_replay_source(struct kv_replay *replay);

// DIR/layer-L.KIND.f16
void kv_record_path(char path[KV_RECORD_PATH_BYTES], const char *folder, uint32_t layer, char kind);

#endif
