// Building heads of a segment.

#ifndef FATHOM_SRC_KV_BUILD_H
#define FATHOM_SRC_KV_BUILD_H

#include "src/base/pool.h"
#include "src/kv/engine.h"

// Builds heads first .. first + n - 1 of job->target, on the pool: a small segment from the tail's
// oldest rows, a merged one from the small segments from job->first on.
void build_heads(fathom_engine *engine, struct slot *slot, const struct job *job, uint32_t first,
                 uint32_t n);

// Of one thread's scratch.
size_t build_scratch_bytes(const fathom_engine *engine);

#endif
