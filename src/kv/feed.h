// Hands sealed rows to the attention kernel, over the pool. An item of work is a KV head, a share
// of its rows, and a tile of tokens; it adds to the part of its share.

#ifndef FATHOM_SRC_KV_FEED_H
#define FATHOM_SRC_KV_FEED_H

#include "src/kv/sealed.h"

enum { FEED_TOKENS = 32 }; // of a tile

struct feed {
    fathom_engine *engine;
    const struct slot *slot;
    const struct sealed_parts *parts;
    uint32_t layer;
    uint32_t first; // token
    uint32_t n_tokens;
    uint32_t n_tiles;
    bool accumulate;
    int64_t deadline_ns;      // for rows on disk
    const struct want *wants; // [n_wants], of one item after another by KV head; or NULL
    uint32_t n_wants;
};

// Rows in RAM of what engine->selections add; of all segments.
void feed_picked(const struct feed *feed);
void feed_all(const struct feed *feed);
// Rows of the wants that are there.
void feed_wants(const struct feed *feed);

#endif
