// Long texts: sentences of filler, and the facts of a puzzle among them.

#ifndef FATHOM_TOOLS_HAYSTACK_H
#define FATHOM_TOOLS_HAYSTACK_H

#include "tools/corpus.h"
#include "tools/ids.h"
#include "tools/puzzle.h"
#include "tools/random.h"

// Zeroed is empty.
struct haystack {
    struct bytes text;
    struct ids ids; // the text's, with BOS if the model wants one
};

// Hides the facts and fills up with sentences, of the corpus or, where that is NULL, of chance, to
// at most n_tokens, as near as sentences allow.
int haystack_build(struct haystack *haystack, struct random *random, const fathom_model *model,
                   const struct puzzle *puzzle, struct corpus *corpus, size_t n_tokens);
void haystack_free(struct haystack *haystack);

#endif
