// The regular expressions of the pre-tokenizers, as PCRE2 patterns, and which name uses which.
//
// Sources: the tokenizer.json of the models, and the names that llama.cpp gives them in
// tokenizer.ggml.pre. White space is spelled out as Unicode's White_Space property, since PCRE2's
// own \s differs from it (U+180E). Contractions are spelled in both cases, since caseless matching
// would also take U+017F for an s.

#ifndef FATHOM_SRC_MODEL_PRETOKEN_PATTERNS_H
#define FATHOM_SRC_MODEL_PRETOKEN_PATTERNS_H

#include "fathom/types.h"

enum { PRETOKEN_PATTERNS_MAX = 6 };

struct pretoken_family {
    const char *names; // separated and enclosed by single spaces
    bool keeps_words;
    bool adds_bos;
    // Applied one after the other: each cuts the pieces that the one before left, into its matches
    // and what lies between them. NULL ends the list.
    const char *patterns[PRETOKEN_PATTERNS_MAX];
};

// The family of a name, or NULL.
const struct pretoken_family *pretoken_patterns_find(const char *name, size_t name_bytes);

#endif
