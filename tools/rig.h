// What every command that computes needs: a device, a model, a runner and one sequence, opened from
// the flags they share.

#ifndef FATHOM_TOOLS_RIG_H
#define FATHOM_TOOLS_RIG_H

#include "fathom/model.h"
#include "tools/flags.h"
#include "tools/kv_flags.h"
#include "tools/progress.h"

// Most tokens of a context.
enum { RIG_CTX_MAX = 1 << 28 };

struct rig_options {
    const char *path; // of the GGUF file
    const char *device;
    int (*list_devices)(void); // rig_list_devices
    int64_t n_gpu_layers;      // below 0: as many as fit
    uint32_t n_threads;        // 0: one for each physical core
    const char *isa;           // instruction sets that kernels may use, separated by commas
    int64_t log_level;
    struct flag_texts overrides;

    uint32_t n_ctx; // tokens; 0: the model's
    uint32_t n_batch;
    const char *type_k; // NULL: the default
    const char *type_v;
    const char *type_default;
    const char *rope_scaling; // NULL: the model's; below, 0 or less likewise
    float rope_scale;
    float rope_freq_base;
    uint32_t yarn_orig_ctx;
    float yarn_ext_factor;
    float yarn_attn_factor;
    float yarn_beta_fast;
    float yarn_beta_slow;
    struct kv_options kv;
    const char *files[2]; // other files of the command, which --kv-stats must not replace, or NULL
};

struct rig {
    fathom_device *device;
    fathom_model *model;
    fathom_runner *runner;
    const struct fathom_model_info *info;
    struct fathom_seq seq;
    uint32_t n_ctx;
    uint32_t n_batch;
    float *logits; // [n_vocab], of the token fed last with rig_feed
    double load_ms;
    int64_t log_level;
};

extern const struct rig_options rig_defaults;

// -m, --override-kv: all that rig_open_vocabulary looks at.
struct flag_group rig_file_flags(struct rig_options *options);
// --device, --list-devices, -t, --isa, -lv.
struct flag_group rig_device_flags(struct rig_options *options);
// -c, -b, -ctk, -ctv and RoPE.
struct flag_group rig_context_flags(struct rig_options *options);

// Opens everything. *rig need not be initialised and may be closed after a failure.
int rig_open(struct rig *rig, const struct rig_options *options);

// Prints the machine's devices; EXIT_HELPED.
int rig_list_devices(void);

// What can be told before it is opened.
int rig_check_device(const struct rig_options *options);

// Sets how many layers' weights a GPU is to hold: what -ngl says, or what leaves room for the
// context.
void rig_place_layers(const struct rig_options *options, struct fathom_model_params *params);

// Says of the open model which weights a GPU does not hold.
void rig_say_placement(const struct rig *rig, const struct rig_options *options);

// Opens the device alone.
int rig_open_device(struct rig *rig, const struct rig_options *options);

// Opens the model alone, without weights: for its vocabulary and metadata.
int rig_open_vocabulary(struct rig *rig, const struct rig_options *options);

// Whether the plan of the KV cache has every row in the hot arena.
bool rig_is_dense(const struct rig *rig);

// For commands that feed what they measure in steps of a batch: says so if these pick nothing.
void rig_say_unpicked(const struct rig *rig);

// At the end of a command's work, which came to `code`: writes --kv-stats, if that was asked for,
// and, unless it failed, says what one should know of the cache. Returns code or, if all was
// good, what kept it from writing.
int rig_report(const struct rig *rig, const struct rig_options *options, int code);

void rig_close(struct rig *rig);

// Feeds ids in batches and leaves the last one's logits in rig->logits. progress may be NULL.
// EXIT_INTERRUPTED, between two batches, after an interrupt.
int rig_feed(struct rig *rig, const int32_t *ids, size_t n_ids, struct progress *progress);

// Feeds them likewise and leaves the sampler's pick in *next_id instead.
int rig_feed_pick(struct rig *rig, const int32_t *ids, size_t n_ids, struct progress *progress,
                  fathom_sampler *sampler, int32_t *next_id);

// Memory for *n_rows rows of logits: a batch, or fewer where the vocabulary is large. To be freed
// with block_free; NULL after saying so when there is none.
float *rig_rows_new(const struct rig *rig, uint32_t *n_rows);

// Feeds at most n_batch ids and writes a row of logits for each: rows [n_ids, n_vocab].
int rig_feed_rows(struct rig *rig, const int32_t *ids, uint32_t n_ids, float *rows);

// Forgets all but the first n_keep tokens of the sequence.
int rig_truncate(struct rig *rig, size_t n_keep);

#endif
