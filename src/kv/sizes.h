// What the tiers of an engine come to, in bytes and places, before they are opened.

#ifndef FATHOM_SRC_KV_SIZES_H
#define FATHOM_SRC_KV_SIZES_H

#include "src/kv/engine.h"

struct sizes {
    uint32_t n_small;       // small segments, of all sequences
    uint32_t n_merged;      // merged ones
    uint32_t n_merged_ram;  // of these, whose rows fit into RAM
    uint64_t n_rows_max;    // of a sequence's segments, those included that truncation hides
    uint32_t n_wants_max;   // units that a layer's step may want from disk
    uint64_t small_bytes;   // rows and indexes of small segments
    uint64_t index_bytes;   // indexes of merged ones
    uint64_t working_bytes; // all else in RAM: search, scratch, partials, tables, staging
    uint64_t fetch_bytes;   // of these, the buffer for units from disk
};

// Segments of an engine, engine->n_sealed_max and engine->n_build_max.
void sizes_count(fathom_engine *engine, struct sizes *sizes);
// Everything else, once the selector is open and the classes of segments are known. ENOMEM when
// kv.host_bytes does not hold the least that the engine needs.
FATHOM_MUST_USE fathom_status sizes_fit(const fathom_engine *engine, struct sizes *sizes);

// Logs a warning if the disk is too small for a sequence that fills the context.
void sizes_warn_disk(const fathom_engine *engine, const struct sizes *sizes);

// Of all heads of a segment, in whole pages.
uint64_t sizes_rows_bytes(const fathom_engine *engine, enum segment_size size);
uint64_t sizes_index_bytes(const fathom_engine *engine, enum segment_size size);

#endif
