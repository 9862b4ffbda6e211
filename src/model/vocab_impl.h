// Inside of a vocabulary: shared by the vocab*.c files, and by nothing else.
//
// A token has two spellings. Its key is what it is found by in a text that is being tokenized; its
// piece is what it is printed as. Both are plain bytes: SentencePiece's U+2581 is a space here, and
// the printable characters by which byte-level BPE spells bytes are those bytes again, so texts are
// never escaped. They differ where a token is not made by merging: control tokens have no key.

#ifndef FATHOM_SRC_MODEL_VOCAB_IMPL_H
#define FATHOM_SRC_MODEL_VOCAB_IMPL_H

#include "fathom/model.h"
#include "src/base/mem.h"
#include "src/model/merge.h"
#include "src/model/metadata.h"
#include "src/model/pretoken.h"
#include "src/model/vocab.h"

// As numbered in tokenizer.ggml.token_type.
enum token_type {
    TOKEN_UNDEFINED = 0,
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 3,
    TOKEN_USER = 4,
    TOKEN_UNUSED = 5,
    TOKEN_BYTE = 6,
};

struct token {
    const char *key; // [key_bytes]; key_bytes 0: not found by text
    const char *piece;
    uint32_t key_bytes;
    uint32_t piece_bytes;
    uint32_t rank; // the better the score, the smaller
    uint8_t type;  // enum token_type
    bool ends;     // a generation
};

// A spelling that is cut out of a text before the rest is tokenized.
struct special {
    const char *text;
    uint32_t bytes;
    int32_t id;
};

struct special_list {
    struct special *items; // [n_items] in order of their bytes, no two alike
    uint32_t n_items;
    bool starts[256]; // whether any item begins with the byte
};

struct vocab {
    bool is_spm; // SentencePiece; else byte-level BPE
    struct arena arena;
    struct token *tokens; // [n_tokens]
    uint32_t n_tokens;
    uint32_t key_bytes_max;
    struct table_slot *slots; // [slot_mask + 1] open addressing: key to id
    uint32_t slot_mask;
    int32_t byte_ids[256]; // token of a byte that nothing else covers, -1: none
    int32_t bos;           // -1: none; likewise eos
    int32_t eos;
    bool adds_bos;
    struct special_list user;     // what is cut out always
    struct special_list specials; // what is cut out with FATHOM_TOKENIZE_SPECIAL

    // SentencePiece.
    bool adds_space;   // before a text, and behind each special token
    bool trims_spaces; // runs of spaces become one, at the ends none
    uint64_t *pairs;   // bits: neighbouring characters that occur within some key

    // BPE.
    struct pretoken *pretoken;
    struct bpe_slot *merges; // [merge_mask + 1] open addressing: pair of ids to id
    uint32_t merge_mask;
    uint32_t merge_shift; // 64 less the bits of merge_mask
};

// One call of vocab_tokenize.
struct vocab_job {
    const struct vocab *vocab;
    struct merger merger;
    char *buffer; // [text_bytes + 1], SentencePiece only
    const struct special_list *specials;
    const struct vocab_span *contents; // [n_contents] those not passed yet
    size_t n_contents;
    int32_t *ids; // [capacity]
    size_t capacity;
    size_t n_ids; // counts on beyond capacity
};

static inline void vocab_emit(struct vocab_job *job, int32_t id)
{
    if (job->n_ids < job->capacity) job->ids[job->n_ids] = id;
    job->n_ids++;
}

// Emits the symbols of the merger's word: tokens, and bytes of what is none.
void vocab_emit_symbols(struct vocab_job *job, const char *word);

// vocab_table.c: tokens and their index.
FATHOM_MUST_USE fathom_status vocab_table_load(struct vocab *vocab,
                                               const struct metadata *metadata);
int32_t vocab_table_find(const struct vocab *vocab, const char *key, size_t key_bytes); // -1: none

// vocab_special.c: spellings of special tokens.
FATHOM_MUST_USE fathom_status vocab_special_load(struct vocab *vocab);
// The longest spelling that the text begins with, or NULL.
const struct special *vocab_special_match(const struct special_list *list, const char *text,
                                          size_t text_bytes);
// The first and longest spelling at or behind `begin`; text_bytes if there is none.
size_t vocab_special_find(const struct special_list *list, const char *text, size_t text_bytes,
                          size_t begin, const struct special **special);

// vocab_spm.c
FATHOM_MUST_USE fathom_status vocab_spm_load(struct vocab *vocab, const struct metadata *metadata);
// The text between two special tokens.
FATHOM_MUST_USE fathom_status vocab_spm_encode(struct vocab_job *job, const char *text,
                                               size_t text_bytes);
// Copies a text with U+2581 as space; returns its bytes, never more than before.
size_t vocab_spm_unescape(const char *text, size_t text_bytes, char *out);

// vocab_bpe.c
FATHOM_MUST_USE fathom_status vocab_bpe_load(struct vocab *vocab, const struct metadata *metadata);
FATHOM_MUST_USE fathom_status vocab_bpe_encode(struct vocab_job *job, const char *text,
                                               size_t text_bytes);
// The bytes that a token's printable spelling stands for, never more than its own; false if it
// holds a character that stands for none, or if they exceed out_bytes_max.
bool vocab_bpe_decode(const char *text, size_t text_bytes, size_t out_bytes_max, char *out,
                      size_t *out_bytes);

#endif
