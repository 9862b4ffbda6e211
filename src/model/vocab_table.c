// The table of tokens, read from the file's arrays, and its index by key. Not for how texts are
// cut or merged.
//
// Of tokens that are spelled alike, the first is found by text; all can be printed. Control and
// unknown tokens and bytes (<0x0A>) have no key: a text that happens to spell one stays text.

#include "src/model/vocab_impl.h"

#include "src/base/hash.h"
#include "src/base/status.h"

#include <math.h>
#include <string.h>

struct table_slot {
    uint32_t hash;
    uint32_t id_plus_1; // 0: empty
};

static const char tokens_key[] = "tokenizer.ggml.tokens";

// Tokens that end a generation whatever the file says of them: end of text, turn or message, and,
// of models for code, the start of something that is not the answer.
static const char ending_texts[] =
    " </s> <|endoftext|> <|end_of_text|> <|eot_id|> <|eom_id|> <|im_end|> <|end|> <end_of_turn> "
    "<end_of_utterance> <eos> <EOT> _<EOT> [EOT] [EOS] "
    "<\xef\xbd\x9c"
    "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c> "
    "<|fim_pad|> <|repo_name|> <|file_sep|> ";

// Marks for filling in the middle of code. Like the ending tokens they are control tokens, though
// some files call them text of the user's.
static const char infill_texts[] =
    " <|fim_prefix|> <|fim_suffix|> <|fim_middle|> <fim_prefix> <fim_suffix> <fim_middle> "
    "<fim-prefix> <fim-suffix> <fim-middle> <PRE> <SUF> <MID> "
    "\xe2\x96\x81<PRE> \xe2\x96\x81<SUF> \xe2\x96\x81<MID> "
    "<\xef\xbd\x9c"
    "fim\xe2\x96\x81"
    "begin\xef\xbd\x9c> "
    "<\xef\xbd\x9c"
    "fim\xe2\x96\x81hole\xef\xbd\x9c> "
    "<\xef\xbd\x9c"
    "fim\xe2\x96\x81"
    "end\xef\xbd\x9c> ";

// Whether the text is one of those that stand in a list, each between two spaces. (The quick look
// at its first byte saves half of the time that opening a vocabulary takes.)
static bool is_listed(const char *list, struct fathom_gguf_string text)
{
    if (text.bytes == 0 || memchr("<[_\xe2", text.text[0], 4) == NULL) return false;
    if (memchr(text.text, ' ', text.bytes) != NULL) return false;
    for (const char *at = list; at[1] != '\0'; at = strchr(at + 1, ' '))
        if (strncmp(at + 1, text.text, text.bytes) == 0 && at[1 + text.bytes] == ' ') return true;
    return false;
}

// Whether the text is "<0xHH>".
static bool parse_byte(struct fathom_gguf_string text, char *byte)
{
    static const char digits[] = "0123456789ABCDEF";
    if (text.bytes != 6 || memcmp(text.text, "<0x", 3) != 0 || text.text[5] != '>') return false;
    const char *high = memchr(digits, text.text[3], 16);
    const char *low = memchr(digits, text.text[4], 16);
    if (high == NULL || low == NULL) return false;
    *byte = (char)((high - digits) * 16 + (low - digits));
    return true;
}

// Orders scores as integers: the better, the smaller. NaN comes last.
static uint32_t rank_score(float score)
{
    if (isnan(score)) return UINT32_MAX;
    score += 0.0f; // makes -0 equal to 0
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    return bits >> 31 ? bits : ~(bits | 0x80000000u);
}

// Sets key and piece; *buffer is room for text.bytes, and moves on behind what was used.
static void spell_token(const struct vocab *vocab, struct token *token,
                        struct fathom_gguf_string text, char **buffer)
{
    bool is_control = token->type == TOKEN_CONTROL || token->type == TOKEN_UNKNOWN;
    token->piece = text.text;
    token->piece_bytes = (uint32_t)text.bytes;
    if (token->type == TOKEN_BYTE && parse_byte(text, *buffer)) {
        token->piece = (*buffer)++;
        token->piece_bytes = 1;
        return;
    }
    if (is_control) return;

    size_t bytes;
    bool has_key;
    if (vocab->is_spm) {
        // A space in the file is no U+2581: merging never meets it.
        has_key = text.bytes > 0 && memchr(text.text, ' ', text.bytes) == NULL;
        bytes = vocab_spm_unescape(text.text, text.bytes, *buffer);
    } else {
        has_key = vocab_bpe_decode(text.text, text.bytes, text.bytes, *buffer, &bytes);
        if (!has_key) return;
    }
    if (has_key) {
        token->key = *buffer;
        token->key_bytes = (uint32_t)bytes;
    }
    if (token->type != TOKEN_USER) {
        token->piece = *buffer;
        token->piece_bytes = (uint32_t)bytes;
    }
    *buffer += bytes;
}

// An optional array that describes the tokens one by one.
static fathom_status find_column(const struct vocab *vocab, const struct metadata *metadata,
                                 const char *key, int32_t item_type,
                                 const struct fathom_gguf_entry **column)
{
    FATHOM_TRY(metadata_array(metadata, key, item_type, column));
    if (*column != NULL && (*column)->n_items < vocab->n_tokens)
        return status_set(FATHOM_ECORRUPT, "%s has %llu items for %u tokens", key,
                          (unsigned long long)(*column)->n_items, vocab->n_tokens);
    return FATHOM_OK;
}

static fathom_status read_type(const fathom_gguf *gguf, const struct fathom_gguf_entry *types,
                               struct fathom_gguf_string text, uint32_t id, uint8_t *type)
{
    char byte;
    int64_t value = parse_byte(text, &byte) ? TOKEN_BYTE : TOKEN_NORMAL;
    if (types != NULL) FATHOM_TRY(fathom_gguf_as_int(gguf, types, id, &value));
    *type = value < TOKEN_UNDEFINED || value > TOKEN_BYTE ? TOKEN_UNDEFINED : (uint8_t)value;
    return FATHOM_OK;
}

static fathom_status read_tokens(struct vocab *vocab, const struct metadata *metadata,
                                 const struct fathom_gguf_entry *entry)
{
    const fathom_gguf *gguf = metadata_gguf(metadata);
    const struct fathom_gguf_entry *types, *scores;
    FATHOM_TRY(
        find_column(vocab, metadata, "tokenizer.ggml.token_type", FATHOM_GGUF_INT32, &types));
    FATHOM_TRY(find_column(vocab, metadata, "tokenizer.ggml.scores", FATHOM_GGUF_FLOAT32, &scores));
    size_t buffer_bytes = 0;
    for (uint32_t id = 0; id < vocab->n_tokens; id++) {
        struct fathom_gguf_string text;
        FATHOM_TRY(fathom_gguf_as_string(gguf, entry, id, &text));
        if (text.bytes > INT32_MAX || !size_add(buffer_bytes, text.bytes, &buffer_bytes))
            return status_set(FATHOM_ECORRUPT, "%s: token %u is too long", tokens_key, id);
    }
    char *buffer;
    FATHOM_TRY(arena_new(&vocab->arena, buffer_bytes, 1, "token texts", &buffer));

    for (uint32_t id = 0; id < vocab->n_tokens; id++) {
        struct token *token = &vocab->tokens[id];
        struct fathom_gguf_string text;
        double score = 0.0;
        FATHOM_TRY(fathom_gguf_as_string(gguf, entry, id, &text));
        FATHOM_TRY(read_type(gguf, types, text, id, &token->type));
        if (scores != NULL) FATHOM_TRY(fathom_gguf_as_float(gguf, scores, id, &score));
        token->rank = rank_score((float)score);
        token->ends = is_listed(ending_texts, text);
        // Files that forget to mark them would print them, and find them in the user's text.
        if (token->ends || is_listed(infill_texts, text)) token->type = TOKEN_CONTROL;
        spell_token(vocab, token, text, &buffer);
        if (token->key_bytes > vocab->key_bytes_max) vocab->key_bytes_max = token->key_bytes;
    }
    return FATHOM_OK;
}

// The slot of a key: where it is, or where it belongs.
static struct table_slot *find_slot(const struct vocab *vocab, const char *key, size_t key_bytes,
                                    uint32_t hash)
{
    for (uint32_t at = hash & vocab->slot_mask;; at = (at + 1) & vocab->slot_mask) {
        struct table_slot *slot = &vocab->slots[at];
        if (slot->id_plus_1 == 0) return slot;
        const struct token *token = &vocab->tokens[slot->id_plus_1 - 1];
        if (slot->hash == hash && token->key_bytes == key_bytes &&
            memcmp(token->key, key, key_bytes) == 0)
            return slot;
    }
}

static uint32_t hash_key(const char *key, size_t key_bytes)
{
    return (uint32_t)hash_bytes(key, key_bytes, 0);
}

static fathom_status index_tokens(struct vocab *vocab)
{
    size_t n_slots = 16; // at most half of them get used
    while (n_slots < 2 * (size_t)vocab->n_tokens)
        n_slots *= 2;
    FATHOM_TRY(
        arena_new(&vocab->arena, n_slots, sizeof *vocab->slots, "token index", &vocab->slots));
    vocab->slot_mask = (uint32_t)(n_slots - 1);
    for (uint32_t id = 0; id < vocab->n_tokens; id++) {
        const struct token *token = &vocab->tokens[id];
        if (token->key_bytes == 0) continue;
        uint32_t hash = hash_key(token->key, token->key_bytes);
        struct table_slot *slot = find_slot(vocab, token->key, token->key_bytes, hash);
        if (slot->id_plus_1 == 0) *slot = (struct table_slot){.hash = hash, .id_plus_1 = id + 1};
    }
    return FATHOM_OK;
}

static void find_byte_ids(struct vocab *vocab)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        char key = (char)byte;
        vocab->byte_ids[byte] = vocab_table_find(vocab, &key, 1);
    }
    if (!vocab->is_spm) return;
    // Downwards, so that the first of two stays.
    for (uint32_t id = vocab->n_tokens; id-- > 0;) {
        const struct token *token = &vocab->tokens[id];
        if (token->type == TOKEN_BYTE && token->piece_bytes == 1)
            vocab->byte_ids[(unsigned char)token->piece[0]] = (int32_t)id;
    }
}

fathom_status vocab_table_load(struct vocab *vocab, const struct metadata *metadata)
{
    const struct fathom_gguf_entry *entry;
    FATHOM_TRY(metadata_array(metadata, tokens_key, FATHOM_GGUF_STRING, &entry));
    if (entry == NULL || entry->n_items == 0)
        return status_set(FATHOM_ECORRUPT, "the file has no tokens: %s is missing or empty",
                          tokens_key);
    if (entry->n_items > INT32_MAX / 2)
        return status_set(FATHOM_ECORRUPT, "%s has %llu items, more than ids can number",
                          tokens_key, (unsigned long long)entry->n_items);
    vocab->n_tokens = (uint32_t)entry->n_items;
    FATHOM_TRY(
        arena_new(&vocab->arena, vocab->n_tokens, sizeof *vocab->tokens, "tokens", &vocab->tokens));
    FATHOM_TRY(read_tokens(vocab, metadata, entry));
    FATHOM_TRY(index_tokens(vocab));
    find_byte_ids(vocab);
    return FATHOM_OK;
}

int32_t vocab_table_find(const struct vocab *vocab, const char *key, size_t key_bytes)
{
    if (key_bytes == 0 || key_bytes > vocab->key_bytes_max) return -1;
    return (int32_t)find_slot(vocab, key, key_bytes, hash_key(key, key_bytes))->id_plus_1 - 1;
}
