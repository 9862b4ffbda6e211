// What the calls on sequences and steps share.

#ifndef FATHOM_SRC_KV_SEQ_H
#define FATHOM_SRC_KV_SEQ_H

#include "src/kv/engine.h"

// The slot of a live handle; EINVAL otherwise.
FATHOM_MUST_USE fathom_status seq_find(const fathom_engine *engine, struct fathom_seq seq,
                                       struct slot **slot);

#endif
