// Vocabularies for tests: made by hand as GGUF bytes, opened, and asked.

#ifndef FATHOM_TESTS_MODEL_VOCAB_BYTES_H
#define FATHOM_TESTS_MODEL_VOCAB_BYTES_H

#include "src/base/mem.h"
#include "src/model/vocab.h"
#include "tests/model/gguf_bytes.h"

// What is zero is left out of the file.
struct made {
    const char *model; // "llama" or "gpt2"
    const char *pre;
    const char *const *tokens; // [n_tokens]
    size_t n_tokens;
    const int32_t *types; // [n_tokens]
    const float *scores;  // [n_tokens]
    const char *const *merges;
    size_t n_merges;
    bool no_space;       // add_space_prefix = false
    const char *keys[4]; // further keys of type uint32 ...
    uint32_t values[4];  // ... and their values
    const char *overrides[4];
};

struct opened {
    fathom_gguf *gguf;
    struct metadata *metadata;
    struct vocab *vocab;
};

static inline void put_strings(struct bytes *bytes, const char *key, const char *const *texts,
                               size_t n)
{
    put_key_array(bytes, key, FATHOM_GGUF_STRING, n);
    for (size_t i = 0; i < n; i++)
        put_string(bytes, texts[i]);
}

static inline void put_vocab(struct bytes *bytes, const struct made *made)
{
    uint64_t n_keys = 2u + (made->pre != NULL) + (made->types != NULL) + (made->scores != NULL) +
                      (made->merges != NULL) + made->no_space;
    for (size_t i = 0; i < 4; i++)
        n_keys += made->keys[i] != NULL;
    put_head(bytes, 0, n_keys);
    put_key_string(bytes, "tokenizer.ggml.model", made->model);
    put_strings(bytes, "tokenizer.ggml.tokens", made->tokens, made->n_tokens);
    if (made->pre != NULL) put_key_string(bytes, "tokenizer.ggml.pre", made->pre);
    if (made->types != NULL) {
        put_key_array(bytes, "tokenizer.ggml.token_type", FATHOM_GGUF_INT32, made->n_tokens);
        put(bytes, made->types, made->n_tokens * sizeof made->types[0]);
    }
    if (made->scores != NULL) {
        put_key_array(bytes, "tokenizer.ggml.scores", FATHOM_GGUF_FLOAT32, made->n_tokens);
        put(bytes, made->scores, made->n_tokens * sizeof made->scores[0]);
    }
    if (made->merges != NULL)
        put_strings(bytes, "tokenizer.ggml.merges", made->merges, made->n_merges);
    if (made->no_space) {
        put_key(bytes, "tokenizer.ggml.add_space_prefix", FATHOM_GGUF_BOOL);
        put_u8(bytes, 0);
    }
    for (size_t i = 0; i < 4; i++)
        if (made->keys[i] != NULL) put_key_u32(bytes, made->keys[i], made->values[i]);
    put_data(bytes, 32, 0);
}

static inline void close_made(struct opened *opened)
{
    vocab_close(&opened->vocab);
    metadata_close(&opened->metadata);
    fathom_gguf_close(&opened->gguf);
}

// The status of vocab_open; close_made in any case.
static inline fathom_status open_made(const struct made *made, struct opened *opened)
{
    static struct bytes bytes;
    uint32_t n_overrides = 0;
    put_vocab(&bytes, made);
    check_ok(open_bytes(&bytes, &opened->gguf));
    while (n_overrides < 4 && made->overrides[n_overrides] != NULL)
        n_overrides++;
    check_ok(metadata_open(opened->gguf, made->overrides, n_overrides, &opened->metadata));
    return vocab_open(opened->metadata, &opened->vocab);
}

// The ids must print as this text.
static inline void check_text(const struct vocab *vocab, const int32_t *ids, size_t n_ids,
                              bool special, const char *wanted, size_t wanted_bytes)
{
    char *text = NULL;
    size_t bytes;
    assert_int_equal(vocab_detokenize(vocab, ids, n_ids, special, NULL, 0, &bytes), FATHOM_PARTIAL);
    assert_int_equal(bytes, wanted_bytes);
    check_ok(mem_new(bytes, 1, "text", &text));
    check_ok(vocab_detokenize(vocab, ids, n_ids, special, text, bytes, &bytes));
    assert_int_equal(bytes, wanted_bytes);
    if (bytes > 0) assert_memory_equal(text, wanted, bytes);
    mem_free(text);
}

#endif
