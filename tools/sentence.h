// Sentences of simple words, for filler, and keys of the same words.

#ifndef FATHOM_TOOLS_SENTENCE_H
#define FATHOM_TOOLS_SENTENCE_H

#include <stddef.h>

#include "tools/random.h"

// Text under construction: what does not fit is cut.
struct sentence {
    char text[512];
    size_t n;
};

// A sentence with its full stop.
void sentence_make(struct sentence *out, struct random *random);

// Two words to ask for: "amber beacon", "sholea badger", "misty krantu".
void sentence_make_key(struct sentence *out, struct random *random);

// A word that no dictionary has: two or three syllables, 13 letters at most.
void sentence_make_word(struct sentence *out, struct random *random);

#endif
