// A model's vocabulary and its tokenizer, built from a GGUF file's metadata.

#ifndef FATHOM_SRC_MODEL_VOCAB_H
#define FATHOM_SRC_MODEL_VOCAB_H

#include "fathom/gguf.h"
#include "src/model/metadata.h"

struct vocab;

// EUNSUPPORTED names an unknown tokenizer.ggml.model or .pre (with the --override-kv remedy);
// ECORRUPT bad tables. The metadata is borrowed; the file must stay mapped until vocab_close.
FATHOM_MUST_USE fathom_status vocab_open(const struct metadata *metadata, struct vocab **vocab);
void vocab_close(struct vocab **vocab);

uint32_t vocab_count(const struct vocab *vocab);
int32_t vocab_bos(const struct vocab *vocab); // -1: none
int32_t vocab_eos(const struct vocab *vocab);
bool vocab_adds_bos(const struct vocab *vocab);
bool vocab_ends(const struct vocab *vocab, int32_t id);

// As fathom_token_text, fathom_tokenize, fathom_detokenize in include/fathom/model.h.
const char *vocab_text(const struct vocab *vocab, int32_t id, bool special, size_t *bytes);
FATHOM_MUST_USE fathom_status vocab_tokenize(const struct vocab *vocab, const char *text,
                                             size_t text_bytes, uint32_t flags, int32_t *ids,
                                             size_t capacity, size_t *n_ids);

// Bytes [begin, end) of a text.
struct vocab_span {
    size_t begin;
    size_t end;
};

// As vocab_tokenize, except that spellings of control tokens stay text where they touch one of
// these spans, which are in the text's order.
FATHOM_MUST_USE fathom_status vocab_tokenize_chat(const struct vocab *vocab, const char *text,
                                                  size_t text_bytes, uint32_t flags,
                                                  const struct vocab_span *contents,
                                                  size_t n_contents, int32_t *ids, size_t capacity,
                                                  size_t *n_ids);

FATHOM_MUST_USE fathom_status vocab_detokenize(const struct vocab *vocab, const int32_t *ids,
                                               size_t n_ids, bool special, char *text,
                                               size_t capacity, size_t *text_bytes);

#endif
