// Tokenizing as SentencePiece does with a BPE model: characters are merged into ever longer tokens,
// best score first; characters that no token covers become bytes.
//
// Merging a long text as one word would need much memory. So it is cut wherever two neighbouring
// characters stand side by side in no token: no merge can cross that place, and the result is the
// same. The pairs that do occur are kept as hashed bits; a false hit only misses a cut.

#include "src/model/vocab_impl.h"

#include "src/base/status.h"
#include "src/model/utf8.h"

#include <string.h>

static const char escaped_space[] = "\xe2\x96\x81"; // U+2581

enum {
    ESCAPED_SPACE_BYTES = 3,
    PAIR_BITS_LOG2 = 19 // 64 KiB; Llama 2's vocabulary sets 0.6 % of the bits
};

static uint32_t hash_pair(uint32_t first, uint32_t second)
{
    uint64_t pair = (uint64_t)first << 32 | second;
    return (uint32_t)((pair * 0x9e3779b97f4a7c15u) >> (64 - PAIR_BITS_LOG2));
}

static bool has_pair(const struct vocab *vocab, uint32_t first, uint32_t second)
{
    uint32_t bit = hash_pair(first, second);
    return vocab->pairs[bit / 64] >> (bit % 64) & 1;
}

size_t vocab_spm_unescape(const char *text, size_t text_bytes, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < text_bytes;) {
        if (text_bytes - i >= ESCAPED_SPACE_BYTES && text[i] == escaped_space[0] &&
            memcmp(text + i, escaped_space, ESCAPED_SPACE_BYTES) == 0) {
            out[n++] = ' ';
            i += ESCAPED_SPACE_BYTES;
        } else {
            out[n++] = text[i++];
        }
    }
    return n;
}

fathom_status vocab_spm_load(struct vocab *vocab, const struct metadata *metadata)
{
    int32_t unknown_id = 0;
    FATHOM_TRY(
        metadata_bool(metadata, "tokenizer.ggml.add_space_prefix", true, &vocab->adds_space));
    FATHOM_TRY(metadata_bool(metadata, "tokenizer.ggml.remove_extra_whitespaces", false,
                             &vocab->trims_spaces));
    FATHOM_TRY(metadata_i32(metadata, "tokenizer.ggml.unknown_token_id", 0, &unknown_id));
    if (unknown_id < 0 || (uint32_t)unknown_id >= vocab->n_tokens)
        return status_set(FATHOM_ECORRUPT,
                          "tokenizer.ggml.unknown_token_id=%d is not one of the %u tokens",
                          unknown_id, vocab->n_tokens);
    for (size_t byte = 0; byte < 256; byte++)
        if (vocab->byte_ids[byte] < 0) vocab->byte_ids[byte] = unknown_id;

    FATHOM_TRY(arena_new(&vocab->arena, ((size_t)1 << PAIR_BITS_LOG2) / 64, sizeof *vocab->pairs,
                         "pairs of characters", &vocab->pairs));
    for (uint32_t id = 0; id < vocab->n_tokens; id++) {
        const struct token *token = &vocab->tokens[id];
        uint32_t before = 0, code = 0;
        for (size_t at = 0; at < token->key_bytes; before = code) {
            bool is_first = at == 0;
            at += utf8_next(token->key + at, token->key_bytes - at, &code);
            uint32_t bit = hash_pair(before, code);
            if (!is_first) vocab->pairs[bit / 64] |= (uint64_t)1 << (bit % 64);
        }
    }
    return FATHOM_OK;
}

// merge_find_fn: two symbols merge if together they are a token.
static bool find_token(const void *rules, const char *text, const struct merge_symbol *left,
                       const struct merge_symbol *right, struct merge_pair *pair)
{
    const struct vocab *vocab = rules;
    pair->id = vocab_table_find(vocab, text + left->begin, left->bytes + right->bytes);
    if (pair->id < 0) return false;
    pair->rank = vocab->tokens[pair->id].rank;
    return true;
}

// A run of spaces becomes one space, and none at the ends. In place.
static size_t trim_spaces(char *text, size_t bytes)
{
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++)
        if (text[i] != ' ' || (n > 0 && text[n - 1] != ' ')) text[n++] = text[i];
    return n > 0 && text[n - 1] == ' ' ? n - 1 : n;
}

static fathom_status encode_word(struct vocab_job *job, const char *word)
{
    FATHOM_TRY(merge_run(&job->merger, word));
    vocab_emit_symbols(job, word);
    merge_clear(&job->merger);
    return FATHOM_OK;
}

fathom_status vocab_spm_encode(struct vocab_job *job, const char *text, size_t text_bytes)
{
    const struct vocab *vocab = job->vocab;
    char *buffer = job->buffer;
    size_t n = vocab_spm_unescape(text, text_bytes, buffer + 1);
    if (vocab->trims_spaces) n = trim_spaces(buffer + 1, n);
    if (n == 0) return FATHOM_OK;
    buffer[0] = ' ';
    if (vocab->adds_space)
        n++;
    else
        buffer++;

    job->merger.rules = vocab;
    job->merger.find = find_token;
    const char *word = buffer;
    uint32_t before = 0, code = 0;
    for (size_t at = 0; at < n; before = code) {
        size_t bytes = utf8_next(buffer + at, n - at, &code);
        if (job->merger.n_symbols > 0 && !has_pair(vocab, before, code)) {
            FATHOM_TRY(encode_word(job, word));
            word = buffer + at;
        }
        int32_t id = vocab_table_find(vocab, buffer + at, bytes);
        FATHOM_TRY(merge_append(&job->merger, (uint32_t)bytes, id));
        at += bytes;
    }
    return encode_word(job, word);
}
