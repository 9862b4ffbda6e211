// What the picks of each layer's KV heads covered, and how far their outputs were off: the recall
// of attention on real queries.

#ifndef FATHOM_TOOLS_NEEDLE_HEADS_H
#define FATHOM_TOOLS_NEEDLE_HEADS_H

#include <jansson.h>

#include "tools/rig.h"

struct needle_heads {
    uint32_t n_layers, n_kv_heads;
    struct fathom_head_stats *stats; // [n_layers, n_kv_heads]
};

// Takes them as they are now; needle_heads_since turns that into what came later. *heads need not
// be initialised and may be freed after a failure.
int needle_heads_take(struct needle_heads *heads, const struct rig *rig);
int needle_heads_since(struct needle_heads *heads, const struct rig *rig);
void needle_heads_free(struct needle_heads *heads);

// Steps compared with exact attention, of all heads.
uint64_t needle_heads_verified(const struct needle_heads *heads);

// A row for each head of a length of n_tokens, and one for all.
void needle_heads_print_header(void);
int needle_heads_print(const struct needle_heads *heads, uint32_t n_tokens);

// An array of objects, one for each head.
json_t *needle_heads_json(const struct needle_heads *heads);

#endif
