// Sentences of a user's text: where they end, and that nothing is lost or cut in two.

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/check.h"
#include "tools/corpus.h"
#include "tools/say.h"

static int open_text(struct corpus *corpus, const char *text, size_t bytes)
{
    char path[] = "/tmp/fathom-corpus-XXXXXX";
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, bytes), bytes);
    close(fd);
    const int code = corpus_open(corpus, path);
    unlink(path);
    return code;
}

static void expect_next(struct corpus *corpus, const char *text)
{
    struct sentence sentence;
    corpus_next(corpus, &sentence);
    assert_string_equal(sentence.text, text);
    assert_int_equal(sentence.n, strlen(text));
}

static void t_ends(void **state)
{
    (void)state;
    static const char text[] = "  One two.  Is it\n3.5 or\tmore? Yes!\n\nA heading\n\nlast";
    struct corpus corpus;
    assert_int_equal(open_text(&corpus, text, sizeof text - 1), EXIT_GOOD);
    for (int round = 0; round < 2; round++) {
        expect_next(&corpus, "One two.");
        expect_next(&corpus, "Is it 3.5 or more?");
        expect_next(&corpus, "Yes!");
        expect_next(&corpus, "A heading");
        expect_next(&corpus, "last");
    }
    corpus_free(&corpus);
}

// Sentences fit, words come apart nowhere but where one alone is too long, and characters never.
static void t_long(void **state)
{
    (void)state;
    enum { N_WORDS = 200, N_CHARACTERS = 1000 };
    char text[3 * N_CHARACTERS];
    for (size_t i = 0; i < N_WORDS; i++)
        memcpy(text + 6 * i, "words ", 6);
    struct corpus corpus;
    struct sentence sentence;
    assert_int_equal(open_text(&corpus, text, 6 * N_WORDS), EXIT_GOOD);
    size_t n = 0;
    while (n < N_WORDS) {
        corpus_next(&corpus, &sentence);
        assert_int_equal((sentence.n + 1) % 6, 0);
        n += (sentence.n + 1) / 6;
    }
    assert_int_equal(n, N_WORDS);
    corpus_free(&corpus);

    for (size_t i = 0; i < N_CHARACTERS; i++)
        memcpy(text + 3 * i, "\xe6\xb0\xb4", 3);
    assert_int_equal(open_text(&corpus, text, sizeof text), EXIT_GOOD);
    for (n = 0; n < sizeof text; n += sentence.n) {
        corpus_next(&corpus, &sentence);
        assert_true(sentence.n > 300);
        assert_int_equal(sentence.n % 3, 0);
        assert_memory_equal(sentence.text, "\xe6\xb0\xb4", 3);
    }
    assert_int_equal(n, sizeof text);
    corpus_free(&corpus);
}

static void t_seek(void **state)
{
    (void)state;
    struct corpus corpus;
    struct random random;
    random_init(&random, 1);
    assert_int_equal(open_text(&corpus, "aaa. bbb. ccc. ddd.", 19), EXIT_GOOD);
    unsigned seen = 0;
    for (int i = 0; i < 100; i++) {
        struct sentence sentence;
        corpus_seek(&corpus, &random);
        corpus_next(&corpus, &sentence);
        assert_int_equal(sentence.n, 4);
        seen |= 1u << (sentence.text[0] - 'a');
    }
    assert_int_equal(seen, 15);
    corpus_free(&corpus);
}

static void t_nothing(void **state)
{
    (void)state;
    struct corpus corpus;
    assert_int_equal(open_text(&corpus, " \n\t", 3), EXIT_BAD);
    corpus_free(&corpus);
    assert_int_equal(open_text(&corpus, "", 0), EXIT_BAD);
    corpus_free(&corpus);
    assert_int_equal(corpus_open(&corpus, "/nonexistent/text"), EXIT_BAD);
    corpus_free(&corpus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t_ends),
        cmocka_unit_test(t_long),
        cmocka_unit_test(t_seek),
        cmocka_unit_test(t_nothing),
    };
    return check_run("corpus", tests, sizeof tests / sizeof tests[0]);
}
