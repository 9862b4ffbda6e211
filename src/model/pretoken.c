// Runs the patterns of a pre-tokenizer over a text, with PCRE2 (compiled to machine code where it
// can be). The patterns are applied in sequence by recursion, so no list of pieces is kept: each
// piece of one level is cut by the next, and the pieces of the last level are the words.
//
// A piece is a subject of its own: look-ahead does not see beyond its end, as in llama.cpp.

#include "src/model/pretoken.h"

#include "src/base/mem.h"
#include "src/base/status.h"
#include "src/model/pretoken_patterns.h"
#include "src/model/utf8.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <string.h>

struct pretoken {
    const struct pretoken_family *family;
    size_t n_codes;
    pcre2_code *codes[PRETOKEN_PATTERNS_MAX];
};

// One call of pretoken_split.
struct splitter {
    const struct pretoken *pretoken;
    pcre2_match_data *match;
    pcre2_match_context *limits;
    pretoken_fn fn;
    void *user;
};

fathom_status pretoken_open(const char *name, size_t name_bytes, struct pretoken **out_pretoken)
{
    const struct pretoken_family *family = pretoken_patterns_find(name, name_bytes);
    if (family == NULL)
        return status_set(FATHOM_EUNSUPPORTED,
                          "tokenizer.ggml.pre \"%.*s\" is not known; if it equals a known one, say "
                          "so with --override-kv tokenizer.ggml.pre=str:NAME (NAME: default, "
                          "gpt-2, llama-bpe, qwen2, tekken, deepseek-coder, deepseek-llm, "
                          "starcoder, refact, falcon)",
                          (int)(name_bytes < 64 ? name_bytes : 64), name);

    struct pretoken *pretoken;
    FATHOM_TRY(mem_new(1, sizeof *pretoken, "pre-tokenizer", &pretoken));
    pretoken->family = family;
    for (size_t i = 0; i < PRETOKEN_PATTERNS_MAX && family->patterns[i] != NULL; i++) {
        int error;
        PCRE2_SIZE at;
        pcre2_code *code = pcre2_compile((PCRE2_SPTR)family->patterns[i], PCRE2_ZERO_TERMINATED,
                                         PCRE2_UTF, &error, &at, NULL);
        if (code == NULL) {
            pretoken_close(&pretoken);
            return status_set(FATHOM_EINTERNAL, "PCRE2 refuses a pre-tokenizer pattern at %zu (%d)",
                              (size_t)at, error);
        }
        // Where there is no JIT, pcre2_match interprets: slower, same matches.
        (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
        pretoken->codes[pretoken->n_codes++] = code;
    }
    *out_pretoken = pretoken;
    return FATHOM_OK;
}

void pretoken_close(struct pretoken **pretoken)
{
    if (pretoken == NULL || *pretoken == NULL) return;
    for (size_t i = 0; i < (*pretoken)->n_codes; i++)
        pcre2_code_free((*pretoken)->codes[i]);
    mem_free(*pretoken);
    *pretoken = NULL;
}

bool pretoken_keeps_words(const struct pretoken *pretoken)
{
    return pretoken->family->keeps_words;
}

bool pretoken_adds_bos(const struct pretoken *pretoken)
{
    return pretoken->family->adds_bos;
}

// Finds the first match at or behind *begin; *begin == bytes if there is none.
static fathom_status find_match(struct splitter *splitter, size_t level, const char *piece,
                                size_t bytes, size_t *begin, size_t *end)
{
    const pcre2_code *code = splitter->pretoken->codes[level];
    // The text has been checked once as a whole; checking each piece again would be quadratic.
    uint32_t options = PCRE2_NO_UTF_CHECK;
    int rc = pcre2_match(code, (PCRE2_SPTR)piece, bytes, *begin, options, splitter->match,
                         splitter->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(code, (PCRE2_SPTR)piece, bytes, *begin, options | PCRE2_NO_JIT,
                         splitter->match, splitter->limits);
    if (rc == PCRE2_ERROR_NOMATCH) {
        *begin = *end = bytes;
        return FATHOM_OK;
    }
    if (rc < 0) {
        PCRE2_UCHAR text[128];
        if (pcre2_get_error_message(rc, text, sizeof text) < 0) text[0] = '\0';
        fathom_status status = rc == PCRE2_ERROR_NOMEMORY ? FATHOM_ENOMEM : FATHOM_EINTERNAL;
        return status_set(status, "pre-tokenizer: PCRE2 error %d: %s", rc, (const char *)text);
    }
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(splitter->match);
    *begin = span[0];
    *end = span[1];
    return FATHOM_OK;
}

static fathom_status split_piece(struct splitter *splitter, size_t level, const char *piece,
                                 size_t bytes)
{
    if (bytes == 0) return FATHOM_OK;
    if (level == splitter->pretoken->n_codes) return splitter->fn(splitter->user, piece, bytes);
    for (size_t done = 0; done < bytes;) {
        size_t begin = done, end = done;
        FATHOM_TRY(find_match(splitter, level, piece, bytes, &begin, &end));
        FATHOM_TRY(split_piece(splitter, level + 1, piece + done, begin - done));
        FATHOM_TRY(split_piece(splitter, level + 1, piece + begin, end - begin));
        done = end;
    }
    return FATHOM_OK;
}

// Bytes at the front of the text up to the next well-formed character.
static size_t count_malformed(const char *text, size_t bytes)
{
    size_t n = 0;
    uint32_t code;
    while (n < bytes && utf8_decode(text + n, bytes - n, &code) == 0)
        n++;
    return n;
}

fathom_status pretoken_split(const struct pretoken *pretoken, const char *text, size_t text_bytes,
                             pretoken_fn fn, void *user)
{
    fathom_status status = FATHOM_OK;
    struct splitter splitter = {.pretoken = pretoken, .fn = fn, .user = user};
    splitter.match = pcre2_match_data_create(1, NULL);
    splitter.limits = pcre2_match_context_create(NULL);
    if (splitter.match == NULL || splitter.limits == NULL) {
        status = status_set(FATHOM_ENOMEM, "no memory to match the pre-tokenizer's patterns");
        goto out;
    }
    // Every pattern is linear in its piece, but a piece may be the whole text.
    pcre2_set_match_limit(splitter.limits, UINT32_MAX);

    for (size_t done = 0; done < text_bytes;) {
        size_t bytes = utf8_valid_bytes(text + done, text_bytes - done);
        FATHOM_CHECK(split_piece(&splitter, 0, text + done, bytes), out);
        done += bytes;
        bytes = count_malformed(text + done, text_bytes - done);
        if (bytes > 0) FATHOM_CHECK(fn(user, text + done, bytes), out);
        done += bytes;
    }
out:
    pcre2_match_context_free(splitter.limits);
    pcre2_match_data_free(splitter.match);
    return status;
}
