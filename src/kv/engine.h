// The engine's inside: shape, tiers, and the slots of sequences.
//
// Owned by the thread that calls the public API; nothing here is locked. Work on the pool is given
// out and awaited inside one call.

#ifndef FATHOM_SRC_KV_ENGINE_H
#define FATHOM_SRC_KV_ENGINE_H

#include <stdatomic.h>

#include "fathom/fathom.h"
#include "src/iface/device.h"
#include "src/kv/fetch.h"
#include "src/kv/segment.h"

// A segment as a sequence has it: tokens begin .. begin + n_rows - 1, of which those below `end`
// are the sequence's (truncation caps it).
struct sealed {
    struct segment *segment;
    uint32_t begin;
    uint32_t end;
};

// A segment being built, head by head: `credit` grows with the tokens that come in.
struct job {
    struct segment *target; // NULL: nothing to do
    struct segment *victim; // merge: goes to disk meanwhile, if not NULL
    uint32_t first;         // merge: of the small segments in slot->sealed
    uint32_t n_done;        // heads
    uint64_t credit;        // in heads times tokens
};

// The threshold of a sequence's picks, when the engine looks for one itself.
struct calibration {
    float threshold;    // 0: not found yet
    uint64_t n_rows;    // sealed when it was found
    uint32_t n_samples; // that it was found on
    bool prefilled;     // steps of many tokens came since
};

// One sequence. Its hot rows lie in one reservation of the device, K first:
//     [n_layers, n_kv_heads, n_tail_max, d_k], then [n_layers, n_kv_heads, n_tail_max, d_v]
// A strip holds the sinks (the first n_sink tokens), then the tokens from sealed_end on.
struct slot {
    uint32_t generation;   // odd while the slot is in use
    uint32_t n_tokens;     // of ended steps
    uint32_t sealed_end;   // first token of the tail; n_sink while nothing is sealed
    uint32_t step_tokens;  // 0: no step is open
    uint32_t n_appended;   // layers that have the open step's rows
    bool *appended;        // [n_layers], of the open step
    uint8_t *dev_rows;     // NULL until the slot's first use; likewise
    float *dev_cos_sin;    // [n_step_max, n_rot / 2, 2] of the open step; NULL: not rotated
    float *cos_sin;        // the same, for the host
    struct sealed *sealed; // [n_sealed_max]
    uint32_t n_sealed;
    struct job seal;
    struct job merge;
    float *samples;     // [n_layers, SAMPLES, n_heads, d_k] of late queries, rotated
    uint32_t n_samples; // taken since create
    bool attended;      // in the open step: it left a sample
    struct calibration calibration;
    float *turns; // [n_segment, n_rot / 2, 2] of keys that are sealed or unsealed; NULL: none
};

enum {
    SAMPLES = 32,               // late queries that a sequence keeps
    RUNS_MAX = 1024,            // that go to the attention kernel at once
    CALIBRATE_GRID = 512,       // thresholds tried at once
    CALIBRATE_FLOOR_PARTS = 32, // a head picks at least that part of its ceiling
};

// Scratch of one thread of the pool.
struct worker {
    void *build;         // of seal and merge
    void *attend;        // ATTEND_SCRATCH_BYTES
    struct kv_run *runs; // [RUNS_MAX]
};

// Of a KV head: rows to pick or, with no tokens, a share of the sealed ones.
struct budget {
    uint64_t tokens;
    float share;
};

struct fathom_engine {
    fathom_device *device; // held
    struct fathom_engine_params params;
    bool tiered; // sealing is possible: not dense
    bool picks;  // sparse
    bool exact;  // everything is read all the same: fathom_engine_set_exact
    uint32_t group;
    uint32_t n_block;    // tokens of a step that pick together
    uint32_t n_tail_max; // rows of a strip
    uint32_t n_hot_max;  // auto: tokens that stay dense; else 0
    size_t k_row_bytes;  // of the tail
    size_t v_row_bytes;
    size_t slot_bytes;
    struct slot *slots;  // [n_seqs_max]
    double *frequencies; // [n_rot / 2], radians a token; NULL: keys are not rotated
    float magnitude;     // of cos and sin
    size_t table_bytes;  // of a cos_sin
    float *far_cos_sin;  // [n_rot / 2, 2] of queries of sealed keys; NULL: as of the others

    // Of tiered engines.
    uint32_t n_sealed_max; // segments of a sequence
    uint32_t n_build_max;  // rows of a segment
    struct segments segments;
    const struct selector_ops *selector_ops;
    struct selector *selector;
    struct search *search;
    struct fetch fetch;
    struct worker *workers;       // [threads of the pool]
    struct index_view *views;     // [n_kv_heads, n_sealed_max]
    struct selection *selections; // [n_kv_heads]
    _Atomic(bool) *picked;        // [n_kv_heads] the selection is there, in the pick in work
    uint64_t *budgets;            // [n_kv_heads] of the layer in work
    uint64_t *surveyed;           // [n_kv_heads, CALIBRATE_GRID]
    struct budget *head_budgets;  // [n_layers, n_kv_heads] as the caller wants them
    size_t sample_bytes;          // of a slot's samples
    float *rotated;               // [n_step_max, n_heads, d_k]
    float *verified;              // [n_heads, d_v], and lse [n_heads] behind
    uint64_t n_rows_all;          // sealed rows of the sequence in work
    float *parts;                 // partials; see sealed.h
    size_t n_part_values;
    uint64_t working_bytes; // scratch, partials, tables, the buffer for units from disk

    fathom_tap_fn tap; // NULL: nobody looks
    void *tap_user;
    float *tap_rows; // [n_step_max, n_heads, d_k or d_v], from the first tap on

    struct fathom_kv_stats stats;         // but for what head_stats hold
    struct fathom_head_stats *head_stats; // [n_layers, n_kv_heads], sums in place of means
    char plan[768];
};

// ---- params.c -----------------------------------------------------------------------------------
fathom_status params_check(const struct fathom_engine_params *params);

// ---- plan.c: what the parameters come to --------------------------------------------------------
// Decides between dense and tiered, and sizes the tail; of tiered engines opens all else.
fathom_status plan_open(fathom_engine *engine);
void plan_close(fathom_engine *engine);

// ---- budget.c -----------------------------------------------------------------------------------
// Of each KV head, as the parameters say.
fathom_status budget_open(fathom_engine *engine);

// ---- tail.c: the hot rows -----------------------------------------------------------------------
fathom_status tail_open(fathom_engine *engine, struct slot *slot);
void tail_close(fathom_engine *engine, struct slot *slot);
uint8_t *tail_keys(const fathom_engine *engine, const struct slot *slot, uint32_t head);
uint8_t *tail_values(const fathom_engine *engine, const struct slot *slot, uint32_t head);
static inline uint32_t tail_row(const fathom_engine *engine, const struct slot *slot,
                                uint32_t token)
{
    const uint32_t n_sink = engine->params.kv.n_sink;
    return token < n_sink ? token : token - slot->sealed_end + n_sink;
}
// Moves the rows of tokens `from` .. n_tokens - 1 to where they belong once `from` is sealed_end.
void tail_slide(fathom_engine *engine, struct slot *slot, uint32_t from);

// ---- tap.c --------------------------------------------------------------------------------------
// Shows the open step's rows x to the tap, if there is one.
fathom_status tap_show(fathom_engine *engine, struct fathom_seq seq, const struct slot *slot,
                       enum fathom_tap_rows kind, uint32_t layer, const float *x);

// ---- seal.c -------------------------------------------------------------------------------------
// Does what n_new tokens pay for of sealing and merging, and begins what is due.
void seal_advance(fathom_engine *engine, struct slot *slot, uint32_t n_new);
// Seals until the tail has room for n_new tokens more.
fathom_status seal_make_room(fathom_engine *engine, struct slot *slot, uint32_t n_new);
void seal_cancel(fathom_engine *engine, struct slot *slot);

// ---- attend.c -----------------------------------------------------------------------------------
// Over sinks and tail alone; lse may be NULL.
fathom_status attend_tail(fathom_engine *engine, struct slot *slot, uint32_t layer, const float *q,
                          float *out, float *lse);
fathom_status attend_tiered(fathom_engine *engine, struct slot *slot, uint32_t layer,
                            const float *q, float *out);
// Fills engine->views for a search in a layer.
void attend_views(const fathom_engine *engine, const struct slot *slot, uint32_t layer);
uint64_t attend_sealed_rows(const struct slot *slot);
// Rows that a head [n_layers * n_kv_heads] is to pick of n_sealed_rows; UINT64_MAX: all.
uint64_t attend_budget(const fathom_engine *engine, uint32_t head, uint64_t n_sealed_rows);

// ---- collapse.c ---------------------------------------------------------------------------------
// Collapsed positions; nothing happens where they are true.
fathom_status collapse_open(fathom_engine *engine); // after slots and frequencies
void collapse_close(fathom_engine *engine);
size_t collapse_turn_bytes(const fathom_engine *engine); // of a slot's turns
// Sets the turns of tokens first .. first + n_segment - 1: back to position 0, or from there.
void collapse_prepare(const fathom_engine *engine, struct slot *slot, uint32_t first, bool back);
// Turns k [d_k], the key of the i-th of them.
void collapse_turn(const fathom_engine *engine, const struct slot *slot, uint32_t i, float *k);
// Sinks that attend_tail leaves to collapse_attend_sinks, which adds them to the open step's
// partial o [step_tokens, n_heads, d_v] and lse [step_tokens, n_heads]; queries are
// engine->rotated.
uint32_t collapse_sinks(const fathom_engine *engine, const struct slot *slot);
void collapse_attend_sinks(fathom_engine *engine, const struct slot *slot, uint32_t layer, float *o,
                           float *lse);

// ---- calibrate.c --------------------------------------------------------------------------------
// Before a step of one token: finds the threshold anew if that is due.
void calibrate(fathom_engine *engine, struct slot *slot);
// Most rows that a head of that budget may pick by the threshold; UINT64_MAX: it reads all.
uint64_t calibrate_ceiling(uint64_t budget, uint64_t n_sealed_rows);

#endif
