// Vocabularies against independent truth: llama.cpp's test texts and ids, real books, and naive
// merging of random texts by random vocabularies.

#include "src/model/vocab.h"

#include "fathom/model.h"

#include "src/base/mem.h"
#include "src/base/rng.h"
#include "tests/check.h"
#include "tests/model/vocab_bytes.h"

#include <string.h>

static const char *const styles[] = {"gpt-2", "deepseek-coder", "llama-spm"};

static char *read_file(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    long end = ftell(file);
    assert_true(end >= 0);
    rewind(file);
    char *text = NULL;
    check_ok(mem_new((size_t)end + 1, 1, "file", &text));
    *bytes = fread(text, 1, (size_t)end, file);
    assert_int_equal(*bytes, end);
    fclose(file);
    return text;
}

static void open_style(struct opened *opened, const char *style)
{
    char name[128];
    snprintf(name, sizeof name, "tokenizers/ggml-vocab-%s.gguf", style);
    check_ok(fathom_gguf_open(check_data(name), &opened->gguf));
    check_ok(metadata_open(opened->gguf, NULL, 0, &opened->metadata));
    check_ok(vocab_open(opened->metadata, &opened->vocab));
}

static void check_reference_text(const struct vocab *vocab, const char *text, size_t bytes,
                                 const char *line)
{
    int32_t ids[2048];
    size_t n_ids, n = 0;
    check_ok(vocab_tokenize(vocab, text, bytes, 0, ids, 2048, &n_ids));
    for (char *end; *line != '\n' && *line != '\0'; line = end) {
        long wanted = strtol(line, &end, 10);
        if (end == line) break;
        if (n >= n_ids || ids[n] != wanted)
            fail_msg("'%.*s': id %zu is %d, wanted %ld", (int)bytes, text, n,
                     n < n_ids ? ids[n] : -1, wanted);
        n++;
    }
    assert_int_equal(n, n_ids);
    check_text(vocab, ids, n_ids, true, text, bytes);
}

// Texts end with "\n__ggml_vocab_test__\n"; each line of the other file has the ids of one text.
static void test_reference_ids(void **state)
{
    static const char mark[] = "\n__ggml_vocab_test__\n";
    for (size_t i = 0; i < 3; i++) {
        struct opened opened = {0};
        char name[128];
        size_t text_bytes, id_bytes, n_texts = 0;
        open_style(&opened, styles[i]);
        snprintf(name, sizeof name, "tokenizers/ggml-vocab-%s.gguf.inp", styles[i]);
        char *texts = read_file(check_data(name), &text_bytes);
        snprintf(name, sizeof name, "tokenizers/ggml-vocab-%s.gguf.out", styles[i]);
        char *lines = read_file(check_data(name), &id_bytes);
        const char *line = lines;
        for (const char *at = texts, *end; (end = strstr(at, mark)) != NULL;) {
            check_reference_text(opened.vocab, at, (size_t)(end - at), line);
            at = end + strlen(mark);
            line = strchr(line, '\n');
            assert_non_null(line);
            line++;
            n_texts++;
        }
        assert_true(n_texts > 40);
        assert_int_equal(*line, '\0');
        mem_free(texts);
        mem_free(lines);
        close_made(&opened);
    }
    (void)state;
}

static void check_round_trip(const struct vocab *vocab, const char *text, size_t bytes)
{
    int32_t *ids = NULL;
    size_t n_ids;
    check_ok(mem_new(bytes + 1, sizeof *ids, "ids", &ids));
    check_ok(vocab_tokenize(vocab, text, bytes, 0, ids, bytes + 1, &n_ids));
    check_text(vocab, ids, n_ids, true, text, bytes);
    mem_free(ids);
}

static void test_round_trip_of_books(void **state)
{
    static const char *const books[] = {"text/war-and-peace.txt", "text/tinyshakespeare.txt"};
    for (size_t i = 0; i < 3; i++) {
        struct opened opened = {0};
        open_style(&opened, styles[i]);
        for (size_t j = 0; j < 2; j++) {
            size_t bytes;
            char *text = read_file(check_data(books[j]), &bytes);
            check_round_trip(opened.vocab, text, bytes);
            mem_free(text);
        }
        close_made(&opened);
    }
    (void)state;
}

// deepseek-coder calls its marks for infilling the user's text: they are control tokens all the
// same, found only when asked for.
static void test_infill_marks(void **state)
{
    static const char text[] = "<\xef\xbd\x9c"
                               "fim\xe2\x96\x81hole\xef\xbd\x9c>";
    struct opened opened = {0};
    int32_t ids[64];
    size_t n_ids;
    open_style(&opened, "deepseek-coder");
    check_ok(
        vocab_tokenize(opened.vocab, text, strlen(text), FATHOM_TOKENIZE_SPECIAL, ids, 64, &n_ids));
    assert_int_equal(n_ids, 1);
    assert_int_equal(ids[0], 32015);
    check_ok(vocab_tokenize(opened.vocab, text, strlen(text), 0, ids, 64, &n_ids));
    assert_true(n_ids > 1);
    check_text(opened.vocab, ids, n_ids, true, text, strlen(text));
    close_made(&opened);
    (void)state;
}

// Long words, on which anything quadratic would run into the time limit.
static void test_round_trip_of_long_words(void **state)
{
    enum { BYTES = 1 << 20 };
    static char text[BYTES];
    struct rng rng;
    rng_init(&rng, 11);
    for (size_t i = 0; i < 3; i++) {
        struct opened opened = {0};
        open_style(&opened, styles[i]);
        memset(text, 'a', BYTES);
        check_round_trip(opened.vocab, text, BYTES);
        memset(text, ' ', BYTES);
        check_round_trip(opened.vocab, text, BYTES);
        text[BYTES - 1] = 'x';
        check_round_trip(opened.vocab, text, BYTES);
        memset(text, '\n', BYTES);
        check_round_trip(opened.vocab, text, BYTES);
        // deepseek-coder has no tokens for the bytes that UTF-8 never uses, and SentencePiece takes
        // U+2581, which ends in 0x81, for a space.
        if (strcmp(styles[i], "deepseek-coder") != 0) {
            for (size_t j = 0; j < BYTES; j++)
                text[j] = (char)(0x82 + rng_below(&rng, 255));
            check_round_trip(opened.vocab, text, BYTES);
        }
        close_made(&opened);
    }
    (void)state;
}

enum { N_LETTERS = 4, N_RANDOM = 24, TEXT_BYTES = 200 };

// Token i is a letter, or is made of two neighbours: of `left` and the rest if left is not empty,
// else of any two.
struct rule {
    char whole[32];
    char left[32];
    char merge[32]; // "left right"
    int rank;
};

static bool applies(const struct rule *rule, const char *text, size_t left_bytes, size_t bytes)
{
    if (strlen(rule->whole) != bytes || memcmp(rule->whole, text, bytes) != 0) return false;
    return rule->left[0] == '\0' || strlen(rule->left) == left_bytes;
}

// Merges the best pair, leftmost first, until there is none: the definition.
static size_t merge_naively(const struct rule *rules, const char *text, size_t bytes, int32_t *ids)
{
    size_t begins[TEXT_BYTES + 1], n = bytes;
    for (size_t i = 0; i <= bytes; i++)
        begins[i] = i;
    for (size_t i = 0; i < bytes; i++)
        ids[i] = text[i] - 'a';
    for (;;) {
        size_t best_at = 0, best = 0;
        for (size_t at = 0; at + 2 <= n; at++)
            for (size_t i = N_LETTERS; i < N_RANDOM; i++)
                if (applies(&rules[i], text + begins[at], begins[at + 1] - begins[at],
                            begins[at + 2] - begins[at]) &&
                    (best == 0 || rules[i].rank < rules[best].rank))
                    best_at = at, best = i;
        if (best == 0) return n;
        ids[best_at] = (int32_t)best;
        memmove(&begins[best_at + 1], &begins[best_at + 2], (n - best_at - 1) * sizeof begins[0]);
        memmove(&ids[best_at + 1], &ids[best_at + 2], (n - best_at - 2) * sizeof ids[0]);
        n--;
    }
}

static bool is_new(const struct rule *rules, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(rules[i].whole, rules[n].whole) == 0) return false;
    return true;
}

// Words of 2 to 5 letters with scores, some of them equal.
static void make_words(struct rng *rng, struct rule *rules)
{
    for (size_t n = N_LETTERS; n < N_RANDOM;) {
        rules[n] = (struct rule){.rank = (int)rng_below(rng, 10)};
        size_t bytes = 2 + rng_below(rng, 4);
        for (size_t i = 0; i < bytes; i++)
            rules[n].whole[i] = (char)('a' + rng_below(rng, N_LETTERS));
        n += is_new(rules, n);
    }
}

// Merges of two earlier tokens.
static void make_merges(struct rng *rng, struct rule *rules)
{
    for (size_t n = N_LETTERS; n < N_RANDOM;) {
        const struct rule left = rules[rng_below(rng, (uint32_t)n)];
        const struct rule right = rules[rng_below(rng, (uint32_t)n)];
        if (strlen(left.whole) + strlen(right.whole) > 12) continue;
        rules[n] = (struct rule){.rank = (int)n};
        snprintf(rules[n].whole, 32, "%.15s%.15s", left.whole, right.whole);
        snprintf(rules[n].left, 32, "%.15s", left.whole);
        snprintf(rules[n].merge, 32, "%.15s %.15s", left.whole, right.whole);
        n += is_new(rules, n);
    }
}

// Random vocabularies and texts of four letters try the order of merges, stale pairs, and cutting
// a text where no token reaches across.
static void try_random(struct rng *rng, bool is_spm)
{
    struct rule rules[N_RANDOM] = {{.whole = "a"}, {.whole = "b"}, {.whole = "c"}, {.whole = "d"}};
    const char *tokens[N_RANDOM], *merges[N_RANDOM];
    float scores[N_RANDOM];
    if (is_spm)
        make_words(rng, rules);
    else
        make_merges(rng, rules);
    for (size_t i = 0; i < N_RANDOM; i++) {
        tokens[i] = rules[i].whole;
        scores[i] = -(float)rules[i].rank;
        if (i >= N_LETTERS) merges[i - N_LETTERS] = rules[i].merge;
    }
    struct made spm = {.model = "llama", .no_space = true, .scores = scores};
    struct made bpe = {.model = "gpt2", .merges = merges, .n_merges = N_RANDOM - N_LETTERS};
    struct made made = is_spm ? spm : bpe;
    made.tokens = tokens;
    made.n_tokens = N_RANDOM;
    struct opened opened = {0};
    check_ok(open_made(&made, &opened));
    for (int k = 0; k < 20; k++) {
        char text[TEXT_BYTES];
        int32_t ids[TEXT_BYTES], wanted[TEXT_BYTES];
        size_t bytes = 1 + rng_below(rng, TEXT_BYTES - 1), n_ids;
        for (size_t i = 0; i < bytes; i++)
            text[i] = (char)('a' + rng_below(rng, N_LETTERS));
        size_t n = merge_naively(rules, text, bytes, wanted);
        check_ok(vocab_tokenize(opened.vocab, text, bytes, 0, ids, TEXT_BYTES, &n_ids));
        assert_int_equal(n_ids, n);
        assert_memory_equal(ids, wanted, n * sizeof ids[0]);
    }
    close_made(&opened);
}

static void test_random_vocabularies(void **state)
{
    struct rng rng;
    print_message("seed 20240607\n");
    rng_init(&rng, 20240607);
    for (int round = 0; round < (check_few() ? 20 : 80); round++) {
        try_random(&rng, true);
        try_random(&rng, false);
    }
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_ids),       cmocka_unit_test(test_round_trip_of_books),
        cmocka_unit_test(test_infill_marks),        cmocka_unit_test(test_round_trip_of_long_words),
        cmocka_unit_test(test_random_vocabularies),
    };
    return check_run("vocab", tests, sizeof tests / sizeof tests[0]);
}
