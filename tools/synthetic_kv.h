// Keys, values and queries with the structure that selectors live on: a text of episodes on topics
// that return, needles that are like nothing else, and queries from another distribution than keys.

#ifndef FATHOM_TOOLS_SYNTHETIC_KV_H
#define FATHOM_TOOLS_SYNTHETIC_KV_H

#include "tools/kv_source.h"
#include "tools/team.h"

struct synthetic_kv;

// A text of n_tokens, and n_steps tokens behind it that ask. The team is held. The same seed and
// shape give the same rows, whatever the team.
int synthetic_kv_open(const struct kv_shape *shape, uint32_t n_tokens, uint32_t n_steps,
                      uint64_t seed, struct team *team, struct synthetic_kv **synth);
void synthetic_kv_close(struct synthetic_kv **synth);

// Valid until close.
struct kv_source synthetic_kv_source(struct synthetic_kv *synth);

#endif
