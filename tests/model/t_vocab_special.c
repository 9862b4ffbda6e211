// Vocabularies made by hand: special tokens, flags, defaults, printing, and tables from hostile
// files.

#include "src/model/vocab.h"

#include "fathom/model.h"

#include "tests/check.h"
#include "tests/model/vocab_bytes.h"

#include <string.h>

enum {
    BOS = FATHOM_TOKENIZE_BOS,
    SPECIAL = FATHOM_TOKENIZE_SPECIAL,
    CONTROL = 3,
    USER = 4,
    BYTE = 6
};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define check_tokens(vocab, text, flags, ...)                                                      \
    check_tokens_of(vocab, text, strlen(text), flags, (const int32_t[]){__VA_ARGS__, -1})

static void check_tokens_of(const struct vocab *vocab, const char *text, size_t bytes,
                            uint32_t flags, const int32_t *wanted)
{
    int32_t ids[256];
    size_t n_ids, n = 0;
    check_ok(vocab_tokenize(vocab, text, bytes, flags, ids, 256, &n_ids));
    while (wanted[n] >= 0)
        n++;
    for (size_t i = 0; i < n && i < n_ids; i++)
        if (ids[i] != wanted[i])
            fail_msg("'%s': id %zu is %d, wanted %d", text, i, ids[i], wanted[i]);
    if (n_ids != n) fail_msg("'%s': %zu ids, wanted %zu", text, n_ids, n);
}

static void check_piece(const struct vocab *vocab, int32_t id, bool special, const char *wanted)
{
    size_t bytes;
    const char *piece = vocab_text(vocab, id, special, &bytes);
    assert_non_null(piece);
    assert_int_equal(bytes, strlen(wanted));
    assert_memory_equal(piece, wanted, bytes);
}

// ---- SentencePiece ------------------------------------------------------------------------------

#define SPACE "\xe2\x96\x81"

static const char *const spm_tokens[] = {
    "<unk>",   "<s>",    "</s>",   SPACE,    "a",      "b",         "ab",
    SPACE "a", "<",      "/",      "s",      ">",      "</",        "</s",
    "s>",      "<tool>", "<0x41>", "<0xC3>", "<0xA9>", SPACE SPACE, "<tool>x"};
static const int32_t spm_types[] = {2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 6, 6, 6, 1, 4};
static const float spm_scores[] = {0,  0,  0,  -9, -9, -9, -1, -2, -9, -9, -9,
                                   -9, -3, -4, -5, 0,  0,  0,  0,  -7, 0};

static struct made make_spm(void)
{
    return (struct made){.model = "llama",
                         .tokens = spm_tokens,
                         .n_tokens = COUNT(spm_tokens),
                         .types = spm_types,
                         .scores = spm_scores};
}

static void test_spm(void **state)
{
    struct made made = make_spm();
    struct opened opened = {0};
    check_ok(open_made(&made, &opened));
    const struct vocab *vocab = opened.vocab;
    assert_int_equal(vocab_count(vocab), COUNT(spm_tokens));
    assert_int_equal(vocab_bos(vocab), 1);
    assert_int_equal(vocab_eos(vocab), 2);
    assert_true(vocab_adds_bos(vocab));

    check_tokens(vocab, "", 0, -1);
    check_tokens(vocab, "", BOS, 1);
    check_tokens(vocab, "a", BOS, 1, 7);
    // "ab" scores above " a".
    check_tokens(vocab, "ab", 0, 3, 6);
    check_tokens(vocab, "b a", 0, 3, 5, 7);
    check_tokens(vocab, "  b", 0, 19, 3, 5);
    // Byte fallback; Z has no byte token.
    check_tokens(vocab, "A\xc3\xa9", 0, 3, 16, 17, 18);
    check_tokens(vocab, "Z", 0, 3, 0);
    // Control tokens: only when asked for, though merges could spell them. User tokens: always,
    // the longest; each is followed by a new text with its space.
    check_tokens(vocab, "</s>", 0, 3, 13, 11);
    check_tokens(vocab, "</s>a", SPECIAL, 2, 7);
    check_tokens(vocab, "<s>", 0, 3, 8, 14);
    check_tokens(vocab, "a<tool>a", 0, 7, 15, 7);
    check_tokens(vocab, "<tool>xa", 0, 20, 7);
    check_tokens(vocab, "<tool><tool>", BOS | SPECIAL, 1, 15, 15);

    check_piece(vocab, 7, false, " a");
    check_piece(vocab, 19, false, "  ");
    check_piece(vocab, 17, false, "\xc3");
    check_piece(vocab, 2, false, "");
    check_piece(vocab, 2, true, "</s>");
    check_piece(vocab, 15, false, "<tool>");
    size_t bytes;
    assert_null(vocab_text(vocab, -1, true, &bytes));
    assert_null(vocab_text(vocab, COUNT(spm_tokens), true, &bytes));

    const int32_t ids[] = {1, 7, 15, 7, 3, 2};
    check_text(vocab, ids, 6, true, "<s>a<tool>a </s>", 16);
    char text[16];
    check_ok(vocab_detokenize(vocab, ids, 6, false, text, sizeof text, &bytes));
    assert_int_equal(bytes, 9);
    assert_memory_equal(text, "a<tool>a ", 9);
    const int32_t bad[] = {7, 99};
    assert_int_equal(vocab_detokenize(vocab, bad, 2, true, text, 16, &bytes), FATHOM_EINVAL);
    close_made(&opened);
    (void)state;
}

static void test_spm_settings(void **state)
{
    struct made made = make_spm();
    struct opened opened = {0};
    made.overrides[0] = "tokenizer.ggml.add_space_prefix=bool:false";
    made.overrides[1] = "tokenizer.ggml.add_bos_token=bool:false";
    made.overrides[2] = "tokenizer.ggml.remove_extra_whitespaces=bool:true";
    check_ok(open_made(&made, &opened));
    assert_false(vocab_adds_bos(opened.vocab));
    check_tokens(opened.vocab, "  a   b ", BOS, 4, 3, 5);
    check_tokens(opened.vocab, "   ", 0, -1);
    close_made(&opened);
    (void)state;
}

// ---- BPE ----------------------------------------------------------------------------------------

// "Ġ" spells a space, "Ċ" a newline, "Ã" and "©" the two bytes of an e with acute accent.
static const char *const bpe_tokens[] = {"a",
                                         "b",
                                         "c",
                                         "\xc4\xa0",
                                         "\xc4\x8a",
                                         "\xc3\x83",
                                         "\xc2\xa9",
                                         "ab",
                                         "bc",
                                         "abc",
                                         "cab",
                                         ("\xc4\xa0"
                                          "a"),
                                         "<|x|>",
                                         "<|im_end|>",
                                         "\xc3\x83\xc2\xa9",
                                         "<|bos|>"};
static const char *const bpe_merges[] = {"b c",   "a b",  "ab c", "\xc3\x83 \xc2\xa9",
                                         "x y",   "nope", " ",    "",
                                         "ab zz", "a b",  "a  b", "\xc4\xa0 a"};
static const int32_t bpe_types[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 1, 1, 3};

static struct made make_bpe(void)
{
    return (struct made){.model = "gpt2",
                         .tokens = bpe_tokens,
                         .n_tokens = COUNT(bpe_tokens),
                         .types = bpe_types,
                         .merges = bpe_merges,
                         .n_merges = COUNT(bpe_merges)};
}

static void test_bpe(void **state)
{
    struct made made = make_bpe();
    struct opened opened = {0};
    made.keys[0] = "tokenizer.ggml.bos_token_id";
    made.values[0] = 15;
    check_ok(open_made(&made, &opened));
    const struct vocab *vocab = opened.vocab;
    assert_int_equal(vocab_bos(vocab), 15);
    assert_int_equal(vocab_eos(vocab), -1);
    assert_false(vocab_adds_bos(vocab));
    // "b c" comes before "a b" in the list, and then nothing makes "a bc".
    check_tokens(vocab, "abc", BOS, 0, 8);
    check_tokens(vocab, "cab", 0, 2, 7);
    check_tokens(vocab, "a a\xc3\xa9", 0, 0, 11, 14);
    check_tokens(vocab, "ab<|x|>ab", 0, 7, 12, 7);
    // The name says that it ends a turn, so it is a control token whatever its type.
    check_tokens(vocab, "a<|im_end|>", SPECIAL, 0, 13);
    check_tokens(vocab, "a<|im_end|>", 0, 0); // of the rest only bytes without tokens are left
    assert_true(vocab_ends(vocab, 13));
    assert_false(vocab_ends(vocab, 12));
    assert_false(vocab_ends(vocab, -1));
    check_piece(vocab, 13, false, "");
    check_piece(vocab, 11, false, " a");
    check_piece(vocab, 14, false, "\xc3\xa9");
    const int32_t ids[] = {15, 4, 14, 12};
    check_text(vocab, ids, 4, true, "<|bos|>\n\xc3\xa9<|x|>", 15);
    close_made(&opened);

    // The same file with a pre-tokenizer that keeps whole words and wants BOS.
    made.overrides[0] = "tokenizer.ggml.pre=str:llama-bpe";
    check_ok(open_made(&made, &opened));
    assert_true(vocab_adds_bos(opened.vocab));
    check_tokens(opened.vocab, "abc", BOS, 15, 9);
    check_tokens(opened.vocab, "cab", 0, 10);
    close_made(&opened);
    (void)state;
}

static void test_ending_ids_of_the_file(void **state)
{
    struct made made = make_bpe();
    struct opened opened = {0};
    made.keys[0] = "tokenizer.ggml.eos_token_id";
    made.values[0] = 15;
    made.keys[1] = "tokenizer.ggml.eot_token_id";
    made.values[1] = 12;
    made.keys[2] = "tokenizer.ggml.bos_token_id";
    made.values[2] = UINT32_MAX; // some writers' "none"
    check_ok(open_made(&made, &opened));
    assert_int_equal(vocab_eos(opened.vocab), 15);
    assert_int_equal(vocab_bos(opened.vocab), -1);
    assert_true(vocab_ends(opened.vocab, 15));
    assert_true(vocab_ends(opened.vocab, 12));
    assert_false(vocab_ends(opened.vocab, 0));
    close_made(&opened);
    (void)state;
}

// The bundled model's vocabulary: 256 bytes, BOS, EOS, no merges.
static void test_bytes_only(void **state)
{
    char path[4096], text[256];
    const char *root = getenv("FATHOM_SOURCE_ROOT");
    struct opened opened = {0};
    int32_t ids[300];
    size_t n_ids;
    snprintf(path, sizeof path, "%s/tools/needle/needle.gguf", root != NULL ? root : ".");
    check_ok(fathom_gguf_open(path, &opened.gguf));
    check_ok(metadata_open(opened.gguf, NULL, 0, &opened.metadata));
    check_ok(vocab_open(opened.metadata, &opened.vocab));
    for (size_t i = 0; i < 256; i++)
        text[i] = (char)i;
    check_ok(vocab_tokenize(opened.vocab, text, 256, BOS, ids, 300, &n_ids));
    assert_int_equal(n_ids, 257);
    assert_int_equal(ids[0], 256);
    for (int32_t i = 0; i < 256; i++)
        assert_int_equal(ids[i + 1], i);
    check_text(opened.vocab, ids, n_ids, false, text, 256);
    check_tokens(opened.vocab, "<s>", 0, '<', 's', '>');
    check_tokens(opened.vocab, "a</s>", SPECIAL, 'a', 257);
    assert_true(vocab_ends(opened.vocab, 257));
    close_made(&opened);
    (void)state;
}

// ---- Calls and files that are wrong -------------------------------------------------------------

static void test_two_calls(void **state)
{
    struct made made = make_bpe();
    struct opened opened = {0};
    int32_t ids[4] = {-7, -7, -7, -7};
    char text[4] = "....";
    size_t n = 0;
    check_ok(open_made(&made, &opened));
    const struct vocab *vocab = opened.vocab;
    assert_int_equal(vocab_tokenize(vocab, "aab", 3, 0, NULL, 0, &n), FATHOM_PARTIAL);
    assert_int_equal(n, 2);
    n = 0;
    assert_int_equal(vocab_tokenize(vocab, "aab", 3, 0, ids, 1, &n), FATHOM_PARTIAL);
    assert_int_equal(n, 2);
    assert_int_equal(ids[1], -7);
    check_ok(vocab_tokenize(vocab, "aab", 3, 0, ids, 2, &n));
    assert_int_equal(ids[2], -7);
    assert_int_equal(vocab_detokenize(vocab, ids, 2, false, text, 2, &n), FATHOM_PARTIAL);
    assert_int_equal(n, 3);
    check_ok(vocab_detokenize(vocab, ids, 2, false, text, 3, &n));
    assert_memory_equal(text, "aab.", 4);
    assert_int_equal(vocab_tokenize(vocab, "a", 1, 4, ids, 4, &n), FATHOM_EINVAL);
    close_made(&opened);
    (void)state;
}

static void refuse(const struct made *made, fathom_status wanted, const char *words)
{
    struct opened opened = {0};
    fathom_status status = open_made(made, &opened);
    assert_null(opened.vocab);
    close_made(&opened);
    if (status != wanted || strstr(fathom_last_error(), words) == NULL)
        fail_msg("status %d, '%s': wanted %d and '%s'", status, fathom_last_error(), wanted, words);
}

static void test_refused_files(void **state)
{
    struct made made = make_bpe();
    made.pre = "no-such";
    refuse(&made, FATHOM_EUNSUPPORTED, "--override-kv tokenizer.ggml.pre");
    made = make_bpe();
    made.pre = "llama-bpe llama3";
    refuse(&made, FATHOM_EUNSUPPORTED, "tokenizer.ggml.pre");
    made = make_bpe();
    made.model = "t5";
    refuse(&made, FATHOM_EUNSUPPORTED, "\"t5\"");
    made = make_bpe();
    made.n_tokens = 0;
    refuse(&made, FATHOM_ECORRUPT, "tokenizer.ggml.tokens");
    made = make_bpe();
    made.keys[0] = "tokenizer.ggml.eos_token_id";
    made.values[0] = COUNT(bpe_tokens);
    refuse(&made, FATHOM_ECORRUPT, "tokenizer.ggml.eos_token_id=16");
    made = make_spm();
    made.keys[0] = "tokenizer.ggml.unknown_token_id";
    made.values[0] = 1000;
    refuse(&made, FATHOM_ECORRUPT, "unknown_token_id");

    // A table of scores that is shorter than that of tokens.
    static struct bytes bytes;
    struct opened opened = {0};
    put_head(&bytes, 0, 3);
    put_key_string(&bytes, "tokenizer.ggml.model", "llama");
    put_strings(&bytes, "tokenizer.ggml.tokens", spm_tokens, COUNT(spm_tokens));
    put_key_array(&bytes, "tokenizer.ggml.scores", FATHOM_GGUF_FLOAT32, 2);
    put(&bytes, spm_scores, 8);
    put_data(&bytes, 32, 0);
    check_ok(open_bytes(&bytes, &opened.gguf));
    check_ok(metadata_open(opened.gguf, NULL, 0, &opened.metadata));
    assert_int_equal(vocab_open(opened.metadata, &opened.vocab), FATHOM_ECORRUPT);
    assert_non_null(strstr(fathom_last_error(), "tokenizer.ggml.scores"));
    close_made(&opened);
    (void)state;
}

// Tables that make no sense but harm nobody: the first of equal tokens is found by text; empty
// tokens, malformed UTF-8, wild types and NaN scores are borne.
static void test_odd_tables(void **state)
{
    static const char *const tokens[] = {"a",      "a", "", "\xff\xfe", "<0xZZ>",
                                         "<0x42>", "b", "", "ab"};
    static const int32_t types[] = {1, 1, 3, 1, 6, 6, 77, 4, -5};
    float scores[9] = {0};
    for (size_t i = 0; i < 9; i++)
        scores[i] = i % 2 ? 0.0f / 1.0f : (float)(0.0 / 0.0);
    struct made made = {.model = "llama", .tokens = tokens, .n_tokens = COUNT(tokens)};
    struct opened opened = {0};
    made.types = types;
    made.scores = scores;
    made.no_space = true;
    check_ok(open_made(&made, &opened));
    check_tokens(opened.vocab, "aab\xff\xfe", 0, 0, 8, 3);
    check_tokens(opened.vocab, "B", SPECIAL, 5);
    check_piece(opened.vocab, 1, false, "a");
    check_piece(opened.vocab, 7, false, "");
    close_made(&opened);
    made.model = "gpt2";
    check_ok(open_made(&made, &opened));
    check_tokens(opened.vocab, "aab", 0, 0, 0, 6);
    close_made(&opened);
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spm),           cmocka_unit_test(test_spm_settings),
        cmocka_unit_test(test_bpe),           cmocka_unit_test(test_ending_ids_of_the_file),
        cmocka_unit_test(test_bytes_only),    cmocka_unit_test(test_two_calls),
        cmocka_unit_test(test_refused_files), cmocka_unit_test(test_odd_tables),
    };
    return check_run("vocab_special", tests, COUNT(tests));
}
