// A vocabulary as a whole: opening it from a file's metadata, tokenizing, printing.
//
// Special tokens are cut out of a text first; what stands between them goes to vocab_spm.c or
// vocab_bpe.c. Ids are those of llama.cpp. Read-only once open: any number of threads.

#include "src/model/vocab.h"

#include "src/base/status.h"
#include "src/model/vocab_impl.h"

#include <string.h>

// The id that a key names; -1 if there is no key, or the value that stands for "none".
static fathom_status read_id(const struct vocab *vocab, const struct metadata *metadata,
                             const char *key, uint32_t fallback, int32_t *id)
{
    uint32_t value;
    FATHOM_TRY(metadata_u32(metadata, key, fallback, &value));
    *id = -1;
    if (value < vocab->n_tokens)
        *id = (int32_t)value;
    else if (value != UINT32_MAX && metadata_has(metadata, key))
        return status_set(FATHOM_ECORRUPT,
                          "%s=%u is not one of the %u tokens; correct it with --override-kv %s="
                          "int:ID",
                          key, value, vocab->n_tokens, key);
    return FATHOM_OK;
}

static fathom_status load_ids(struct vocab *vocab, const struct metadata *metadata)
{
    // SentencePiece's own defaults; models with BPE have none in common.
    uint32_t bos = vocab->is_spm ? 1 : UINT32_MAX, eos = vocab->is_spm ? 2 : UINT32_MAX;
    int32_t eot, eom;
    FATHOM_TRY(read_id(vocab, metadata, "tokenizer.ggml.bos_token_id", bos, &vocab->bos));
    FATHOM_TRY(read_id(vocab, metadata, "tokenizer.ggml.eos_token_id", eos, &vocab->eos));
    FATHOM_TRY(read_id(vocab, metadata, "tokenizer.ggml.eot_token_id", UINT32_MAX, &eot));
    FATHOM_TRY(read_id(vocab, metadata, "tokenizer.ggml.eom_token_id", UINT32_MAX, &eom));
    if (vocab->eos >= 0) vocab->tokens[vocab->eos].ends = true;
    if (eot >= 0) vocab->tokens[eot].ends = true;
    if (eom >= 0) vocab->tokens[eom].ends = true;

    bool adds_bos = vocab->is_spm || pretoken_adds_bos(vocab->pretoken);
    FATHOM_TRY(metadata_bool(metadata, "tokenizer.ggml.add_bos_token", adds_bos, &adds_bos));
    vocab->adds_bos = adds_bos && vocab->bos >= 0;
    return FATHOM_OK;
}

static fathom_status read_style(struct vocab *vocab, const struct metadata *metadata)
{
    struct fathom_gguf_string name;
    FATHOM_TRY(metadata_string(metadata, "tokenizer.ggml.model", "", &name));
    vocab->is_spm = name.bytes == 5 && memcmp(name.text, "llama", 5) == 0;
    if (vocab->is_spm || (name.bytes == 4 && memcmp(name.text, "gpt2", 4) == 0)) return FATHOM_OK;
    if (name.bytes == 0)
        return status_set(FATHOM_ECORRUPT,
                          "the file has no tokenizer: tokenizer.ggml.model is missing");
    return status_set(FATHOM_EUNSUPPORTED,
                      "tokenizer.ggml.model \"%.*s\" is not supported; \"llama\" and \"gpt2\" are "
                      "(--override-kv tokenizer.ggml.model=str:NAME if it is one of them)",
                      (int)(name.bytes < 64 ? name.bytes : 64), name.text);
}

fathom_status vocab_open(const struct metadata *metadata, struct vocab **out_vocab)
{
    fathom_status status;
    struct vocab *vocab;
    FATHOM_TRY(mem_new(1, sizeof *vocab, "vocabulary", &vocab));
    FATHOM_CHECK(read_style(vocab, metadata), out);
    FATHOM_CHECK(vocab_table_load(vocab, metadata), out);
    FATHOM_CHECK(vocab_special_load(vocab), out);
    if (vocab->is_spm)
        FATHOM_CHECK(vocab_spm_load(vocab, metadata), out);
    else
        FATHOM_CHECK(vocab_bpe_load(vocab, metadata), out);
    FATHOM_CHECK(load_ids(vocab, metadata), out);
    *out_vocab = vocab;
    return FATHOM_OK;
out:
    vocab_close(&vocab);
    return status;
}

void vocab_close(struct vocab **vocab)
{
    if (vocab == NULL || *vocab == NULL) return;
    pretoken_close(&(*vocab)->pretoken);
    arena_fini(&(*vocab)->arena);
    mem_free(*vocab);
    *vocab = NULL;
}

uint32_t vocab_count(const struct vocab *vocab)
{
    return vocab->n_tokens;
}

int32_t vocab_bos(const struct vocab *vocab)
{
    return vocab->bos;
}

int32_t vocab_eos(const struct vocab *vocab)
{
    return vocab->eos;
}

bool vocab_adds_bos(const struct vocab *vocab)
{
    return vocab->adds_bos;
}

bool vocab_ends(const struct vocab *vocab, int32_t id)
{
    return id >= 0 && (uint32_t)id < vocab->n_tokens && vocab->tokens[id].ends;
}

const char *vocab_text(const struct vocab *vocab, int32_t id, bool special, size_t *bytes)
{
    *bytes = 0;
    if (id < 0 || (uint32_t)id >= vocab->n_tokens) return NULL;
    const struct token *token = &vocab->tokens[id];
    if (!special && (token->type == TOKEN_CONTROL || token->type == TOKEN_UNKNOWN)) return "";
    *bytes = token->piece_bytes;
    return token->piece;
}

void vocab_emit_symbols(struct vocab_job *job, const char *word)
{
    const struct merger *merger = &job->merger;
    for (size_t i = 0; i < merger->n_symbols; i = merger->symbols[i].next) {
        const struct merge_symbol *symbol = &merger->symbols[i];
        if (symbol->id >= 0) {
            vocab_emit(job, symbol->id);
            continue;
        }
        for (uint32_t j = 0; j < symbol->bytes; j++) {
            int32_t id = job->vocab->byte_ids[(unsigned char)word[symbol->begin + j]];
            // A byte that the vocabulary cannot express is left out, as in llama.cpp.
            if (id >= 0) vocab_emit(job, id);
        }
    }
}

// Whether the control token spelled at [begin, end) is no token there, since contents take part in
// its spelling. `begin` never goes back.
static bool is_forged(struct vocab_job *job, const struct special *special, size_t begin)
{
    if (job->vocab->tokens[special->id].type == TOKEN_USER) return false;
    while (job->n_contents > 0 && job->contents->end <= begin)
        job->contents++, job->n_contents--;
    return job->n_contents > 0 && job->contents->begin < begin + special->bytes;
}

// As vocab_special_find, without forged control tokens.
static size_t find_special(struct vocab_job *job, const char *text, size_t text_bytes, size_t begin,
                           const struct special **special)
{
    for (;; begin++) {
        *special = NULL;
        begin = vocab_special_find(job->specials, text, text_bytes, begin, special);
        if (*special == NULL || !is_forged(job, *special, begin)) return begin;
        // A token of the user's kind may share the front of a forged one.
        *special = vocab_special_match(&job->vocab->user, text + begin, text_bytes - begin);
        if (*special != NULL) return begin;
    }
}

static fathom_status encode_text(struct vocab_job *job, const char *text, size_t text_bytes)
{
    for (size_t at = 0; at < text_bytes;) {
        const struct special *special;
        size_t end = find_special(job, text, text_bytes, at, &special);
        if (end > at) {
            if (job->vocab->is_spm)
                FATHOM_TRY(vocab_spm_encode(job, text + at, end - at));
            else
                FATHOM_TRY(vocab_bpe_encode(job, text + at, end - at));
        }
        if (special == NULL) break;
        vocab_emit(job, special->id);
        at = end + special->bytes;
    }
    return FATHOM_OK;
}

fathom_status vocab_tokenize(const struct vocab *vocab, const char *text, size_t text_bytes,
                             uint32_t flags, int32_t *ids, size_t capacity, size_t *n_ids)
{
    return vocab_tokenize_chat(vocab, text, text_bytes, flags, NULL, 0, ids, capacity, n_ids);
}

fathom_status vocab_tokenize_chat(const struct vocab *vocab, const char *text, size_t text_bytes,
                                  uint32_t flags, const struct vocab_span *contents,
                                  size_t n_contents, int32_t *ids, size_t capacity, size_t *n_ids)
{
    if ((flags & ~(uint32_t)(FATHOM_TOKENIZE_BOS | FATHOM_TOKENIZE_SPECIAL)) != 0)
        return status_set(FATHOM_EINVAL, "flags=%#x has bits that are no fathom_tokenize_flags",
                          flags);
    if (text_bytes > INT32_MAX)
        return status_set(FATHOM_EINVAL, "text_bytes=%zu is above %d: tokenize it in parts",
                          text_bytes, INT32_MAX);
    fathom_status status = FATHOM_OK;
    bool special = (flags & FATHOM_TOKENIZE_SPECIAL) != 0;
    struct vocab_job job = {
        .vocab = vocab,
        .specials = special ? &vocab->specials : &vocab->user,
        .contents = contents,
        .n_contents = n_contents,
        .ids = ids,
        .capacity = ids != NULL ? capacity : 0,
    };
    if (vocab->is_spm)
        FATHOM_CHECK(mem_new(text_bytes + 1, 1, "a copy of the text", &job.buffer), out);
    if ((flags & FATHOM_TOKENIZE_BOS) != 0 && vocab->adds_bos) vocab_emit(&job, vocab->bos);
    FATHOM_CHECK(encode_text(&job, text, text_bytes), out);
    *n_ids = job.n_ids;
    if (ids == NULL || job.n_ids > capacity) status = FATHOM_PARTIAL;
out:
    merge_fini(&job.merger);
    mem_free(job.buffer);
    return status;
}

fathom_status vocab_detokenize(const struct vocab *vocab, const int32_t *ids, size_t n_ids,
                               bool special, char *text, size_t capacity, size_t *text_bytes)
{
    size_t n = 0;
    bool drops_space = vocab->adds_space; // the one that the tokenizer put there
    for (size_t i = 0; i < n_ids; i++) {
        size_t bytes;
        const char *piece = vocab_text(vocab, ids[i], special, &bytes);
        if (piece == NULL)
            return status_set(FATHOM_EINVAL, "ids[%zu]=%d is not one of the %u tokens", i, ids[i],
                              vocab->n_tokens);
        if (i == 0 && ids[i] == vocab->bos && !special) continue;
        uint8_t type = vocab->tokens[ids[i]].type;
        bool is_special = type == TOKEN_CONTROL || type == TOKEN_USER;
        if (drops_space && !is_special && bytes > 0 && piece[0] == ' ') {
            piece++;
            bytes--;
        }
        drops_space = vocab->adds_space && is_special;
        if (text != NULL && bytes <= capacity && n <= capacity - bytes && bytes > 0)
            memcpy(text + n, piece, bytes);
        n += bytes;
    }
    *text_bytes = n;
    return text != NULL && n <= capacity ? FATHOM_OK : FATHOM_PARTIAL;
}
