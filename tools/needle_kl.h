// How far picking moves a model's next-token distributions from those of exact attention.

#ifndef FATHOM_TOOLS_NEEDLE_KL_H
#define FATHOM_TOOLS_NEEDLE_KL_H

#include "tools/ids.h"
#include "tools/rig.h"

struct needle_kl {
    double sum; // of divergences in nats, exact from picked
    size_t n;   // tokens
};

// Feeds the right answer behind the ids that the sequence held when it was asked, token by token,
// once with everything read and once with what is picked, and adds the divergences of its first
// tokens. The sequence, which holds `asked` and maybe more, is left with some of the answer.
int needle_kl_add(struct needle_kl *kl, struct rig *rig, const struct ids *asked,
                  const char *answer);

#endif
