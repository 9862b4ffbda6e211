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

// ---- Where KV lies, and what a query reads of it ------------------------------------------------

enum fathom_kv_mode {
    FATHOM_KV_AUTO = 0,   // dense while the hot arena (device_bytes) holds it, then sparse
    FATHOM_KV_DENSE = 1,  // all rows in the hot arena
    FATHOM_KV_STREAM = 2, // exact: cold rows are sealed, and all of them are read
    FATHOM_KV_SPARSE = 3, // cold rows are sealed, and a selector picks what is read
};

// Sparse: to sinks, tail and what is picked. In steps of n_step_max tokens blocks of up to 32 share
// a budget, and a row counts for as much as the query head finds it worth that wants it most; takes
// 32 times the search's scores in RAM. In shorter steps each token picks for itself, as in
// decoding: so should a prompt's last tokens be read, which ask for what was read before.
enum fathom_kv_prefill {
    FATHOM_PREFILL_DENSE = 0,  // a step of many tokens attends to everything
    FATHOM_PREFILL_SPARSE = 1, // to a part
};

// How sealed rows are stored once they are merged: KIVI (Liu et al. 2024), keys by channel and
// values by token. Until then they are as in the tail.
enum fathom_kv_codec {
    FATHOM_CODEC_PLAIN = 0, // as kv_type
    FATHOM_CODEC_Q8 = 8,    // bits of a code
    FATHOM_CODEC_Q4 = 4,
    FATHOM_CODEC_Q2 = 2,
};

enum fathom_selector {
    FATHOM_SELECTOR_CLUSTER = 0, // RetroInfer (arXiv 2505.02922), Squeezed Attention (2411.09688)
    FATHOM_SELECTOR_CHUNK = 1,   // ShadowKV (2410.21465)
    FATHOM_SELECTOR_BLOCK = 2,   // InfLLM (2402.04617)
    FATHOM_SELECTOR_FLAT = 3,    // exact scores of all keys: the oracle
};

enum fathom_rank_by {
    FATHOM_RANK_BALL = 0, // mean, plus radius times half the query's norm
    FATHOM_RANK_MEAN = 1,
    FATHOM_RANK_BOX = 2, // least and largest values by channel (Quest, 2406.10774)
};

// Where keys seem to be that are not in the tail. True: where they are. Collapsed (InfLLM), for
// contexts longer than a model was trained on: once there are sealed keys, these are all equally
// far from every query, kv.n_window + 2 * kv.n_segment tokens, which is about as far as the tail
// reaches; and the sinks are seen by a query at that position. Needs a mode that seals (STREAM or
// SPARSE), keys that the library rotates, and no more sinks than that. Any selector will do: it
// sees keys and queries as attention does. The tap shows true positions.
enum fathom_kv_positions {
    FATHOM_POSITIONS_TRUE = 0,
    FATHOM_POSITIONS_COLLAPSED = 1,
};

// The same calls give the same bits, on any number of threads, if there is no deadline for the
// disk: segments are sealed and merged at fixed positions, and work is cut into fixed shares. Where
// rows lie on disk, sums are taken in another order than in RAM, so that last bits differ.
struct fathom_kv_params {
    int32_t mode;            // enum fathom_kv_mode
    int32_t prefill;         // enum fathom_kv_prefill
    int32_t selector;        // enum fathom_selector
    int32_t codec;           // enum fathom_kv_codec
    int32_t rank_by;         // enum fathom_rank_by
    int32_t positions;       // enum fathom_kv_positions
    int32_t stage2_bits;     // 0, 4 (default) or 8: keys that score the candidates token by token
    bool index_q8;           // representatives in 8 bit (default) or f16
    bool estimate;           // add the estimate of what was not read (default false)
    bool reduce_sum;         // over the query heads of a group; default: their maximum
    bool coverage_bound;     // `coverage` is asked of the bound, not of the estimate
    bool threshold_auto;     // calibrate `threshold` (which is 0 then); see below
    uint32_t n_sink;         // first tokens, always read; default 64
    uint32_t n_window;       // newest tokens, always read; default 512
    uint32_t n_segment;      // tokens sealed at once; default 1024
    uint32_t n_merged;       // tokens of a merged segment: n_segment times a whole number; 8192
    uint32_t n_unit;         // tokens of a unit; 0 (default): the selector's own
    uint32_t n_dense_layers; // first layers that read everything; default 0
    const uint64_t *head_budgets; // [n_layers, n_kv_heads] rows, in place of the two below; or
                                  // NULL; read by fathom_engine_open
    uint64_t budget_tokens;       // rows picked by KV head; 0: budget_share
    float budget_share;           // of the sealed tokens; default 0.02
    float candidates;             // of stage 2, times the budget, at least 4096; default 2
    float threshold;         // 0 (default): the best `budget`; else, of these, as many as lie in
                             // units that hold more than this share of a head's sealed mass
    float coverage;          // 0 (default): off; else the budget grows until this share is covered
    float verify_share;      // of decode steps whose exact attention is computed too; default 0
    uint64_t device_bytes;   // hot arena; 0: what the mode needs
    uint64_t host_bytes;     // all else in RAM: sealed rows, index, search, staging, scratch; 0: no
                             // limit but the machine's
    uint64_t disk_bytes;     // rows that host_bytes do not hold; 0 (default): no disk
    uint64_t disk_day_bytes; // written per 24 hours; 0: no cap
    const char *disk_path;   // a directory; needed with disk_bytes
    uint32_t disk_deadline_us; // 0 (default): the disk is waited for; else see below
};

// threshold_auto (Squeezed Attention): one threshold for all layers and heads, such that the late
// queries of the sequence itself pick their budgets on average, over all layers and heads. A head
// takes more where more units matter, at most 4 times its budget, and less elsewhere, at least an
// eighth. It is looked for at the first step of one token after others (unless nothing was sealed
// since), again when the sealed rows are half as many again, or a third fewer, and once more if
// there were few queries at first: the last one of each of the last 32 steps counts. Steps of many
// tokens take their budgets as they are.

// disk_deadline_us: in a step of one token, a layer waits that long, from when its rows were
// picked, for those on disk. Units that are not there by then are left out, and count as not read:
// in the coverage, and as late_units of the statistics. The estimate, which must be on, stands in
// for them as for units that were not picked; but not where truncation cuts a segment, nor for
// units that the step has read a part of. Their reads go on, so that later steps find them in RAM.
// A layer waits for all where a head's budget is everything; so do steps of many tokens, layers
// that read everything, stream, and verification.

FATHOM_API void fathom_kv_params_init(struct fathom_kv_params *kv);

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
    struct fathom_kv_params kv;
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

// A new sequence with the same tokens. Sealed segments are shared, the tail is copied. EFULL as
// fathom_seq_create; EINVAL inside a step.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_seq_fork(fathom_engine *engine,
                                                         struct fathom_seq seq,
                                                         struct fathom_seq *fork);

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

// What an engine holds and has done since it was opened. Times are of the calling thread's clock;
// counts of keys and bytes are over layers, KV heads and steps of one token.
struct fathom_kv_stats {
    uint32_t struct_bytes;
    uint64_t device_bytes; // rows held in the hot arena
    uint64_t host_bytes;   // sealed rows and index in RAM, with all that search, staging and
                           // scratch may take
    uint64_t index_bytes;  // of these, index
    uint64_t disk_bytes;   // held in the file
    uint64_t disk_bytes_written;
    uint64_t disk_bytes_read;
    uint64_t n_segments;     // sealed, alive
    uint64_t n_steps;        // decode steps of a layer: fathom_attend with one token
    uint64_t n_steps_picked; // of these, with a selection
    uint64_t tail_keys;      // keys read in sinks and tail
    uint64_t sealed_keys;    // keys that lay in sealed segments
    uint64_t picked_keys;    // of these, read
    uint64_t scanned_keys;
    uint64_t scanned_bytes; // of index
    uint64_t read_bytes;    // rows and index that decode steps read, wherever they lay
    uint64_t host_hits;     // units of spilled segments found in RAM
    uint64_t disk_reads;
    uint64_t late_units; // picked, but not there by the deadline
    uint64_t n_stalls;
    uint64_t n_rounds; // of picking and attending; above n_steps: coverage asked for more
    double select_s;   // these three: of decode steps
    double attend_s;
    double disk_wait_s;
    double seal_s;
    double merge_s;
    uint64_t n_calibrations; // of the threshold
    double calibrate_s;
    double threshold;         // the last one found, of any sequence; 0: none yet
    uint64_t n_covered;       // picked steps whose coverage was computed: every 16th; all of them
                              // if coverage is asked for or verified
    double coverage_bound;    // mean over these and their query heads
    double coverage_estimate; // likewise
    uint64_t n_verified;      // steps compared with exact attention
    double verified_coverage; // mean over them
    double verified_error;    // mean over them of |o - o_exact| / |o_exact|
};

FATHOM_API void fathom_kv_stats_init(struct fathom_kv_stats *stats);
FATHOM_API FATHOM_MUST_USE fathom_status fathom_engine_stats(const fathom_engine *engine,
                                                             struct fathom_kv_stats *stats);

// The same of one KV head of a layer, as far as it can be told apart: means over steps of one token
// and over the query heads of the group. All zero where everything is read.
struct fathom_head_stats {
    uint32_t struct_bytes;
    uint64_t sealed_keys; // that lay in sealed segments, summed over steps
    uint64_t picked_keys; // of these, read
    uint64_t n_covered;
    double coverage_bound;
    double coverage_estimate;
    uint64_t n_verified;
    double verified_coverage;
    double verified_error;
};

FATHOM_API void fathom_head_stats_init(struct fathom_head_stats *stats);
// EINVAL names a layer or KV head that there is not.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_engine_head_stats(const fathom_engine *engine,
                                                                  uint32_t layer, uint32_t kv_head,
                                                                  struct fathom_head_stats *stats);

// One line with the tiers and the selector as the engine was opened, for a log. Valid until close.
FATHOM_API const char *fathom_engine_plan(const fathom_engine *engine);

// The cache's parameters as the engine took them: mode DENSE where all rows stay in the hot arena,
// disk_bytes 0 where no disk is opened, stage2_bits 0 and estimate false where nothing is picked;
// its pointers are NULL. Valid until close.
FATHOM_API const struct fathom_kv_params *fathom_engine_kv(const fathom_engine *engine);

// What goes through an engine, for those who want to look at it: rows of f32 as the cache sees
// them, keys and queries after RoPE.
enum fathom_tap_rows {
    FATHOM_TAP_KEYS = 0,    // [n_tokens, n_kv_heads, d_k], of fathom_append
    FATHOM_TAP_VALUES = 1,  // [n_tokens, n_kv_heads, d_v], likewise, after the keys
    FATHOM_TAP_QUERIES = 2, // [n_tokens, n_heads, d_k], of fathom_attend
};

struct fathom_tap_args {
    struct fathom_seq seq;
    uint32_t layer;
    uint32_t first_token; // place of the step's first token in the sequence
    uint32_t n_tokens;    // of the step
    int32_t kind;         // enum fathom_tap_rows
    const float *rows;    // borrowed for the call
};

typedef void (*fathom_tap_fn)(const struct fathom_tap_args *args, void *user);

// Lets `tap` see what is appended and asked from now on, on the thread of those calls; it must not
// call into the engine. NULL ends that.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_engine_tap(fathom_engine *engine, fathom_tap_fn tap,
                                                           void *user);

// Sets the budget of a KV head of a layer from the next fathom_attend on: that many rows, or, with
// tokens 0, a share (0 to 1) of the sealed ones. Layer or kv_head -1: all. Layers that read
// everything (n_dense_layers), and an auto engine that is dense, go on reading everything. EINVAL
// names what is out of range, EUNSUPPORTED an engine that picks nothing; nothing is changed then.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_engine_set_budget(fathom_engine *engine,
                                                                  int32_t layer, int32_t kv_head,
                                                                  uint64_t tokens, float share);

// Exact: from the next fathom_attend on everything is read, whatever the budgets, and not counted
// as picked, until it is called with false. Shows what picking costs on the same sequence.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_engine_set_exact(fathom_engine *engine, bool exact);

// Bytes of keys and values that one token takes in the tail, over all layers.
FATHOM_API uint64_t fathom_engine_token_bytes(const fathom_engine *engine);

#ifdef __cplusplus
}
#endif

#endif
