// Building haystacks. Lengths are counted in the model's own tokens: sentences are measured one by
// one, and because neighbours may share a token the whole is measured again and trimmed.

#include "tools/haystack.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/block.h"
#include "tools/bytes.h"
#include "tools/say.h"
#include "tools/sentence.h"

enum { FILL_ROUNDS = 4 };

#define NEWLINE_SHARE 0.12 // of the filler sentences end a line

// Filler sentences, one behind the other, each with the blank or newline that follows it.
struct filler {
    struct bytes text;
    size_t *starts; // [n + 1] where each begins in the text, and where the last one ends
    size_t n, n_max;
    size_t n_tokens; // sum over the sentences
};

static bool key_is_used(const struct needle *needles, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(needles[i].key, key) == 0) return true;
    return false;
}

static int compare_places(const void *a, const void *b)
{
    double x = ((const struct needle *)a)->place;
    double y = ((const struct needle *)b)->place;
    return (x > y) - (x < y);
}

static int choose_needles(struct haystack *haystack, struct random *random, size_t n)
{
    haystack->needles = block_new(n, sizeof *haystack->needles);
    if (haystack->needles == NULL) return EXIT_BAD;
    haystack->n_needles = n;
    for (size_t i = 0; i < n; i++) {
        struct needle *needle = &haystack->needles[i];
        struct sentence key;
        do {
            sentence_make_key(&key, random);
        } while (key.n >= sizeof needle->key || key_is_used(haystack->needles, i, key.text));
        memcpy(needle->key, key.text, key.n + 1);
        for (int d = 0; d < HAYSTACK_DIGITS; d++)
            needle->digits[d] = (char)('0' + random_below(random, 10));
        needle->place = random_unit(random);
    }
    qsort(haystack->needles, n, sizeof *haystack->needles, compare_places);
    return EXIT_GOOD;
}

static size_t print_needle(const struct needle *needle, char text[HAYSTACK_QUESTION_BYTES])
{
    int n = snprintf(text, HAYSTACK_QUESTION_BYTES, "The secret number of %s is %s. ", needle->key,
                     needle->digits);
    return (size_t)n;
}

void haystack_question(const struct needle *needle, char text[HAYSTACK_QUESTION_BYTES])
{
    snprintf(text, HAYSTACK_QUESTION_BYTES,
             "Question: What is the secret number of %s?\nAnswer: The secret number of %s is ",
             needle->key, needle->key);
}

static int count_tokens(const fathom_model *model, const char *text, size_t bytes, size_t *n)
{
    fathom_status status = fathom_tokenize(model, text, bytes, 0, NULL, 0, n);
    return status == FATHOM_PARTIAL ? EXIT_GOOD : say_status(status);
}

// Adds sentences of n_tokens together, or a little less.
static int make_filler(struct filler *filler, struct random *random, const fathom_model *model,
                       size_t n_tokens)
{
    size_t n_tokens_max = filler->n_tokens + n_tokens;
    for (;;) {
        struct sentence sentence;
        sentence_make(&sentence, random);
        sentence.text[sentence.n++] = random_unit(random) < NEWLINE_SHARE ? '\n' : ' ';
        size_t n = 0;
        SAY_TRY(count_tokens(model, sentence.text, sentence.n, &n));
        if (filler->n_tokens + n > n_tokens_max) return EXIT_GOOD;
        SAY_TRY(bytes_append(&filler->text, sentence.text, sentence.n));
        SAY_TRY(block_grow(&filler->starts, &filler->n_max, filler->n + 2, sizeof *filler->starts));
        filler->starts[++filler->n] = filler->text.n;
        filler->n_tokens += n;
    }
}

// The text of all needles and the first n_filler sentences, ending in a newline.
static int compose(const struct haystack *haystack, const struct filler *filler, size_t n_filler,
                   struct bytes *text)
{
    text->n = 0;
    size_t start = 0;
    for (size_t i = 0; i <= haystack->n_needles; i++) {
        // Sentences before needle i; all that are left behind the last needle.
        bool last = i == haystack->n_needles;
        double share = last ? 1 : haystack->needles[i].place;
        size_t n_before = last ? n_filler : (size_t)(share * (double)(n_filler + 1));
        size_t end = filler->starts[n_before];
        if (end > start) SAY_TRY(bytes_append(text, filler->text.data + start, end - start));
        start = end;
        if (last) break;
        char needle[HAYSTACK_QUESTION_BYTES];
        size_t n = print_needle(&haystack->needles[i], needle);
        SAY_TRY(bytes_append(text, needle, n));
    }
    if (text->n > 0) text->data[text->n - 1] = '\n';
    return EXIT_GOOD;
}

static int measure(struct haystack *haystack, const struct filler *filler, size_t n_filler,
                   struct bytes *text, const fathom_model *model)
{
    SAY_TRY(compose(haystack, filler, n_filler, text));
    haystack->ids.n = 0;
    return ids_append_text(&haystack->ids, model, text->data, text->n, FATHOM_TOKENIZE_BOS);
}

// Drops sentences from the end until the text fits.
static int trim(struct haystack *haystack, const struct filler *filler, struct bytes *text,
                const fathom_model *model, size_t n_tokens)
{
    size_t n_filler = filler->n;
    while (haystack->ids.n > n_tokens) {
        if (n_filler == 0)
            return say_error("%zu needles do not fit %zu tokens: give fewer --needles or larger "
                             "--lengths",
                             haystack->n_needles, n_tokens);
        size_t sentence_tokens = filler->n_tokens / filler->n + 1;
        size_t n_drop = (haystack->ids.n - n_tokens + sentence_tokens - 1) / sentence_tokens;
        n_filler -= n_drop < n_filler ? n_drop : n_filler;
        SAY_TRY(measure(haystack, filler, n_filler, text, model));
    }
    return EXIT_GOOD;
}

int haystack_build(struct haystack *haystack, struct random *random, const fathom_model *model,
                   size_t n_needles, size_t n_tokens)
{
    *haystack = (struct haystack){0};
    struct filler filler = {0};
    struct bytes text = {0};
    int code = EXIT_GOOD;
    SAY_CHECK(block_grow(&filler.starts, &filler.n_max, 1, sizeof *filler.starts), out);
    filler.starts[0] = 0;
    SAY_CHECK(choose_needles(haystack, random, n_needles), out);
    SAY_CHECK(measure(haystack, &filler, 0, &text, model), out);
    // A sentence alone may take more tokens than in a text, so what is missing is added in rounds.
    for (int round = 0; round < FILL_ROUNDS && haystack->ids.n < n_tokens; round++) {
        size_t n_missing = n_tokens - haystack->ids.n;
        SAY_CHECK(make_filler(&filler, random, model, n_missing), out);
        SAY_CHECK(measure(haystack, &filler, filler.n, &text, model), out);
    }
    SAY_CHECK(trim(haystack, &filler, &text, model, n_tokens), out);
out:
    block_free(filler.starts);
    bytes_free(&filler.text);
    bytes_free(&text);
    return code;
}

void haystack_free(struct haystack *haystack)
{
    block_free(haystack->needles);
    ids_free(&haystack->ids);
    *haystack = (struct haystack){0};
}
