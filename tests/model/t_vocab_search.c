// How special tokens are found in a text: against a plain search, and in a file that makes it hard.

#include "src/base/rng.h"
#include "src/model/vocab.h"

#include "tests/check.h"
#include "tests/model/vocab_bytes.h"

#include <string.h>

enum { USER = 4 }; // in tokenizer.ggml.token_type

// The longest user token at the front of a text, of those spelled alike the first; -1: none.
static int32_t find_plainly(const struct made *made, const char *text)
{
    int32_t longest = -1;
    for (size_t i = 0; i < made->n_tokens; i++) {
        size_t bytes = strlen(made->tokens[i]);
        if (made->types[i] != USER || strncmp(made->tokens[i], text, bytes) != 0) continue;
        if (longest < 0 || bytes > strlen(made->tokens[longest])) longest = (int32_t)i;
    }
    return longest;
}

// Spellings of two letters share prefixes, begin others and occur twice.
static void test_random_specials(void **state)
{
    enum { N_ROUNDS = 300, N_TOKENS = 40, TEXT_BYTES = 200 };
    static char spellings[N_TOKENS][8];
    const char *tokens[N_TOKENS] = {"a", "b"};
    int32_t types[N_TOKENS] = {1, 1}, ids[TEXT_BYTES], wanted[TEXT_BYTES];
    struct rng rng;
    (void)state;
    printf("seed 11\n");
    rng_init(&rng, 11);
    for (int round = 0; round < N_ROUNDS; round++) {
        struct made made = {.model = "gpt2", .tokens = tokens, .types = types};
        struct opened opened = {0};
        char text[TEXT_BYTES + 1] = "";
        size_t n = 0, n_ids;
        made.n_tokens = 2 + rng_below(&rng, N_TOKENS - 1);
        for (size_t i = 2; i < made.n_tokens; i++) {
            memset(spellings[i], 0, sizeof spellings[i]);
            for (uint32_t at = 0, bytes = 2 + rng_below(&rng, 6); at < bytes; at++)
                spellings[i][at] = (char)('a' + (rng_below(&rng, 4) == 0));
            tokens[i] = spellings[i];
            types[i] = USER;
        }
        for (size_t at = 0; at < TEXT_BYTES; at++)
            text[at] = (char)('a' + (rng_below(&rng, 4) == 0));
        for (size_t at = 0; at < TEXT_BYTES; n++) {
            int32_t special = find_plainly(&made, text + at);
            wanted[n] = special >= 0 ? special : text[at] - 'a';
            at += special >= 0 ? strlen(tokens[special]) : 1;
        }
        check_ok(open_made(&made, &opened));
        check_ok(vocab_tokenize(opened.vocab, text, TEXT_BYTES, 0, ids, TEXT_BYTES, &n_ids));
        assert_int_equal(n_ids, n);
        assert_memory_equal(ids, wanted, n * sizeof ids[0]);
        close_made(&opened);
    }
}

// A file that spells very many special tokens alike: a walk over them for every byte of the text
// would take minutes.
static void test_hostile_specials(void **state)
{
    enum { N_TOKENS = 20000, TEXT_BYTES = 8 << 20 };
    static const char *tokens[N_TOKENS];
    static int32_t types[N_TOKENS];
    struct made made = {.model = "gpt2", .tokens = tokens, .n_tokens = N_TOKENS, .types = types};
    struct opened opened = {0};
    char *text = NULL;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    (void)state;
    for (size_t i = 0; i < N_TOKENS; i++) {
        tokens[i] = i < 7 ? "b" : "a";
        types[i] = USER;
    }
    check_ok(open_made(&made, &opened));
    check_ok(mem_new(TEXT_BYTES, 1, "text", &text));
    check_ok(mem_new(TEXT_BYTES, sizeof *ids, "ids", &ids));
    memset(text, 'a', TEXT_BYTES);
    check_ok(vocab_tokenize(opened.vocab, text, TEXT_BYTES, 0, ids, TEXT_BYTES, &n_ids));
    assert_int_equal(n_ids, TEXT_BYTES);
    for (size_t i = 0; i < n_ids; i++)
        if (ids[i] != 7) fail_msg("id %zu is %d, wanted 7", i, ids[i]);
    mem_free(ids);
    mem_free(text);
    close_made(&opened);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_specials),
        cmocka_unit_test(test_hostile_specials),
    };
    return check_run("vocab_search", tests, sizeof tests / sizeof *tests);
}
