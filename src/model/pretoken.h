// Pre-tokenizers of byte-level BPE: cutting a text into the words within which pairs are merged.

#ifndef FATHOM_SRC_MODEL_PRETOKEN_H
#define FATHOM_SRC_MODEL_PRETOKEN_H

#include "fathom/types.h"

struct pretoken;

// name: tokenizer.ggml.pre. EUNSUPPORTED if it is not known.
FATHOM_MUST_USE fathom_status pretoken_open(const char *name, size_t name_bytes,
                                            struct pretoken **pretoken);
void pretoken_close(struct pretoken **pretoken);

// A word that is a token as a whole is not taken apart, whatever the merges say.
bool pretoken_keeps_words(const struct pretoken *pretoken);
// Whether models with this pre-tokenizer want BOS when the file does not say.
bool pretoken_adds_bos(const struct pretoken *pretoken);

// Calls fn with each word, in order; together they are the text. Stops at the first error of fn.
// Bytes that are no UTF-8 are words of their own. Any number of threads.
typedef fathom_status (*pretoken_fn)(void *user, const char *word, size_t word_bytes);
FATHOM_MUST_USE fathom_status pretoken_split(const struct pretoken *pretoken, const char *text,
                                             size_t text_bytes, pretoken_fn fn, void *user);

#endif
