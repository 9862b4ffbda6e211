// Pre-tokenizers: texts and the words they fall into, derived by hand from the expressions that
// the models were published with.

#include "src/model/pretoken.h"

#include "tests/check.h"

#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

// Writes the words with a bar between them.
struct joined {
    char text[1024];
    size_t bytes;
};

static fathom_status join(void *user, const char *word, size_t word_bytes)
{
    struct joined *joined = user;
    assert_true(word_bytes > 0 && joined->bytes + word_bytes + 2 < sizeof joined->text);
    if (joined->bytes > 0) joined->text[joined->bytes++] = '|';
    memcpy(joined->text + joined->bytes, word, word_bytes);
    joined->bytes += word_bytes;
    return FATHOM_OK;
}

// wanted: the words with bars; the text is the same without them.
static void check_words(const char *name, const char *wanted)
{
    struct pretoken *pretoken = NULL;
    struct joined joined = {.bytes = 0};
    char text[1024];
    size_t bytes = 0;
    for (const char *at = wanted; *at != '\0'; at++)
        if (*at != '|') text[bytes++] = *at;
    check_ok(pretoken_open(name, strlen(name), &pretoken));
    check_ok(pretoken_split(pretoken, text, bytes, join, &joined));
    joined.text[joined.bytes] = '\0';
    if (strcmp(joined.text, wanted) != 0)
        fail_msg("%s: '%s', wanted '%s'", name, joined.text, wanted);
    pretoken_close(&pretoken);
}

#define KHMER "\xe1\x9e\x80\xe1\x9e\xb6" // a letter and a vowel sign (Mc)
#define HAN   "\xe4\xb8\x80"
#define UPPER "\xc3\x89" // E with acute accent
#define LOWER "\xc3\xa9"
#define NBSP  "\xc2\xa0"
#define HALF  "\xc2\xbd"     // \p{N}, no digit
#define BARE  "\xe1\xa0\x8e" // U+180E, white space in Unicode 4 only

static void test_gpt2(void **state)
{
    check_words("gpt-2", "Hello| world|'s|  | 123|abc|!?|\n|\n|x|  ");
    check_words("gpt-2", "I|'ll| we|'|VE| '|s");
    check_words("gpt-2", "a|   | b|" NBSP "|c| |" NBSP "|d");
    check_words("gpt-2", "a|" BARE "|b| " HALF);
    check_words("phi-2", "a| 12|,,,| x");
    (void)state;
}

static void test_llama3(void **state)
{
    check_words("llama-bpe", "Hello| world|'S| | |"
                             "123|456|7| |8");
    check_words("llama-bpe", "we|'LL| ('|d|)!\n\n|x|  \n \n|  | y");
    check_words("llama-bpe", "_a|\n|b|\tc|\r\n|$d| ...\n");
    check_words("llama3", "1|'\xc5\xbft| \n| ");
    check_words("smaug-bpe", "abc|123|4");
    (void)state;
}

static void test_qwen2(void **state)
{
    check_words("qwen2", "abc|1|2|3| |4|'s|,\n| d");
    check_words("deepseek-r1-qwen", "\xe1\x9e\x80|\xe1\x9e\xb6\xe1\x9e\x80");
    (void)state;
}

static void test_tekken(void **state)
{
    check_words("tekken", "Hello|World| ABCDefg|HI|/x|1|2");
    check_words("tekken", UPPER "COLE| " UPPER LOWER "| " LOWER "|" UPPER "| " KHMER);
    check_words("tekken", "a| //\n/|b");
    check_words("tekken", "it|'s|  \n|  | x");
    (void)state;
}

static void test_deepseek(void **state)
{
    check_words("deepseek-coder", "a| b| | c|1|2| ,.|\n|\n|" HAN "|x| $  ");
    check_words("deepseek-coder", "x| y| |1|=|z");
    check_words("deepseek-llm", "a| b|123| ,.|\n|" HAN HAN "|x|$|  ");
    check_words("deepseek-llm", "a|  | b|  ");
    check_words("deepseek-llm", KHMER "| a");
    (void)state;
}

static void test_sequences(void **state)
{
    check_words("starcoder", "a| |1|2|b| '|c|'s");
    check_words("refact", "a| |1|2");
    check_words("falcon", "a|$`|b| |123|456|78| |...");
    check_words("default", "a|$|b|`|c| |123|456|7|,| d|\n|\n|e");
    (void)state;
}

// Bytes that are no UTF-8 are words between the others, which do not see each other.
static void test_malformed(void **state)
{
    check_words("gpt-2", "a|\xff\xfe|b| |\xc3|(|\x80|c| |\xed\xa0\x80\xf4\x90\x80\x80| |\xe2\x82");
    (void)state;
}

static void test_names(void **state)
{
    static const char *const unknown[] = {"",      " ",    "gpt", "gpt-2 ", "gpt-2 phi-2",
                                          "bloom", "llama"};
    struct pretoken *pretoken = NULL;
    for (size_t i = 0; i < COUNT(unknown); i++) {
        fathom_status status = pretoken_open(unknown[i], strlen(unknown[i]), &pretoken);
        assert_int_equal(status, FATHOM_EUNSUPPORTED);
        assert_non_null(strstr(fathom_last_error(), "--override-kv"));
    }
    static const struct {
        const char *name;
        bool keeps_words, adds_bos;
    } known[] = {{"llama-bpe", true, true},
                 {"tekken", true, true},
                 {"smaug-bpe", false, false},
                 {"qwen2", false, false},
                 {"default", false, false}};
    for (size_t i = 0; i < COUNT(known); i++) {
        check_ok(pretoken_open(known[i].name, strlen(known[i].name), &pretoken));
        assert_int_equal(pretoken_keeps_words(pretoken), known[i].keeps_words);
        assert_int_equal(pretoken_adds_bos(pretoken), known[i].adds_bos);
        pretoken_close(&pretoken);
    }
    (void)state;
}

static fathom_status refuse(void *user, const char *word, size_t word_bytes)
{
    (void)word;
    (void)word_bytes;
    ++*(int *)user;
    return FATHOM_EFULL;
}

static void test_stops_at_error(void **state)
{
    struct pretoken *pretoken = NULL;
    int n_calls = 0;
    check_ok(pretoken_open("qwen2", 5, &pretoken));
    assert_int_equal(pretoken_split(pretoken, "a b c", 5, refuse, &n_calls), FATHOM_EFULL);
    assert_int_equal(n_calls, 1);
    pretoken_close(&pretoken);
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt2),           cmocka_unit_test(test_llama3),
        cmocka_unit_test(test_qwen2),          cmocka_unit_test(test_tekken),
        cmocka_unit_test(test_deepseek),       cmocka_unit_test(test_sequences),
        cmocka_unit_test(test_malformed),      cmocka_unit_test(test_names),
        cmocka_unit_test(test_stops_at_error),
    };
    return check_run("pretoken", tests, COUNT(tests));
}
