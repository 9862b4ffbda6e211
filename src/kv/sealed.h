// Attention to sealed rows, in partials.
//
// The partials of a step lie in engine->parts: o [n_parts_max, n_tokens, n_heads, d_v] and, behind
// it, lse [n_parts_max, n_tokens, n_heads]. Part 0 is the tail's; then come the shares of the
// sealed rows (each KV head's rows are cut in as many), which rounds add to; then the estimate's.

#ifndef FATHOM_SRC_KV_SEALED_H
#define FATHOM_SRC_KV_SEALED_H

#include "src/base/pool.h"
#include "src/kv/engine.h"

static inline uint32_t engine_units(const fathom_engine *engine, const struct segment *segment,
                                    uint32_t head)
{
    return engine->selector_ops->n_units(segment_index(&engine->segments, segment, head));
}

static inline const uint32_t *engine_begins(const fathom_engine *engine,
                                            const struct segment *segment, uint32_t head)
{
    return engine->selector_ops->unit_begins(segment_index(&engine->segments, segment, head));
}

struct sealed_part {
    float *o;
    float *lse;
};

struct sealed_parts {
    uint32_t n_tokens;
    uint32_t n_parts;    // so far
    uint32_t n_shares;   // of the sealed rows
    int64_t deadline_ns; // for rows on disk, where the engine has one, from the first pick on
};

// Values of engine->parts that steps of up to n_step_max tokens need.
size_t sealed_part_values(const fathom_engine *engine);

struct sealed_parts sealed_parts_begin(const fathom_engine *engine, uint32_t n_tokens);
struct sealed_part sealed_add_part(fathom_engine *engine, struct sealed_parts *parts);
struct sealed_part sealed_part_at(const fathom_engine *engine, const struct sealed_parts *parts,
                                  uint32_t i);

// Begins to read what engine->selections of a KV head add of rows on disk; heads come in their
// order, and fetch_reset before the first.
FATHOM_MUST_USE fathom_status sealed_begin_reads(fathom_engine *engine, const struct slot *slot,
                                                 uint32_t layer, uint32_t kv_head);
// Tokens first .. first + n - 1 of the step over what engine->selections add, once the reads of all
// heads are begun; accumulate: to what an earlier round attended to. Units that miss the deadline
// of a step of one token are left out, of engine->selections too: they are engine->fetch.left, and
// no pick may follow.
FATHOM_MUST_USE fathom_status sealed_attend_picked(fathom_engine *engine, struct slot *slot,
                                                   uint32_t layer, uint32_t first, uint32_t n,
                                                   bool accumulate, struct sealed_parts *parts);
// The whole step over all sealed rows.
FATHOM_MUST_USE fathom_status sealed_attend_all(fathom_engine *engine, struct slot *slot,
                                                uint32_t layer, struct sealed_parts *parts);

// lse [n_heads] of what was read (the estimate is not in it), of a step of one token; valid until
// the next call.
const float *sealed_lse(fathom_engine *engine, const struct sealed_parts *parts);
// The parts merged: [n_tokens, n_heads, d_v].
const float *sealed_merge(fathom_engine *engine, const struct sealed_parts *parts);

// ---- pick.c -------------------------------------------------------------------------------------
// Picks on for all KV heads of the layer, up to engine->budgets, and begins to read what that adds.
FATHOM_MUST_USE fathom_status pick_and_read(fathom_engine *engine, const struct slot *slot,
                                            uint32_t layer);

// ---- wants.c ------------------------------------------------------------------------------------
// Add to engine->fetch.wants, by KV head, what lies on disk.
void wants_picked(fathom_engine *engine, const struct slot *slot, uint32_t kv_head);
void wants_all(fathom_engine *engine, const struct slot *slot, uint32_t layer);
// Those of wants first .. first + n - 1 that are not there become engine->fetch.left.
void wants_leave(fathom_engine *engine, uint32_t first, uint32_t n);

#endif
