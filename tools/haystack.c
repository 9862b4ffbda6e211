// Building haystacks. Lengths are counted in the model's own tokens: sentences are measured one by
// one, and because neighbours may share a token the whole is measured again and trimmed.

#include "tools/haystack.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "tools/block.h"
#include "tools/say.h"
#include "tools/sentence.h"

enum { FILL_ROUNDS = 4 };

#define NEWLINE_SHARE 0.12 // of the filler sentences end a line

// Filler sentences, one behind the other, each with the blank or newline that follows it.
struct filler {
    struct bytes text;
    size_t *starts; // [n + 1] where each begins in the text, and where the last one ends
    size_t n, n_max;
    size_t n_tokens;       // sum over the sentences
    struct corpus *corpus; // they are from it; NULL: they are made
};

static int compare_places(const void *a, const void *b)
{
    const struct fact *x = a, *y = b;
    if (x->place != y->place) return x->place > y->place ? 1 : -1;
    return (x->text > y->text) - (x->text < y->text);
}

// The facts in the order of their places. To be freed; NULL after saying so when there is no
// memory.
static struct fact *sort_facts(const struct puzzle *puzzle)
{
    struct fact *facts = block_new(puzzle->n_facts, sizeof *facts);
    if (facts == NULL) return NULL;
    memcpy(facts, puzzle->facts, puzzle->n_facts * sizeof *facts);
    qsort(facts, puzzle->n_facts, sizeof *facts, compare_places);
    return facts;
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
        if (filler->corpus != NULL)
            corpus_next(filler->corpus, &sentence);
        else
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

// What a text is made of.
struct parts {
    const struct puzzle *puzzle;
    struct fact *facts; // [puzzle->n_facts], in the order of the text
    struct filler filler;
};

// The text of all facts and the first n_filler sentences, ending in a newline.
static int compose(const struct parts *parts, size_t n_filler, struct bytes *text)
{
    const struct filler *filler = &parts->filler;
    const size_t n_facts = parts->puzzle->n_facts;
    text->n = 0;
    size_t start = 0;
    for (size_t i = 0; i <= n_facts; i++) {
        // Sentences before fact i; all that are left behind the last fact.
        bool last = i == n_facts;
        double share = last ? 1 : parts->facts[i].place;
        size_t n_before = last ? n_filler : (size_t)(share * (double)(n_filler + 1));
        size_t end = filler->starts[n_before];
        if (end > start) SAY_TRY(bytes_append(text, filler->text.data + start, end - start));
        start = end;
        if (last) break;
        const char *fact = puzzle_text(parts->puzzle, parts->facts[i].text);
        SAY_TRY(bytes_append(text, fact, strlen(fact)));
        SAY_TRY(bytes_append(text, " ", 1));
    }
    if (text->n > 0) text->data[text->n - 1] = '\n';
    return EXIT_GOOD;
}

static int measure(struct haystack *haystack, const struct parts *parts, size_t n_filler,
                   const fathom_model *model)
{
    SAY_TRY(compose(parts, n_filler, &haystack->text));
    haystack->ids.n = 0;
    return ids_append_text(&haystack->ids, model, haystack->text.data, haystack->text.n,
                           FATHOM_TOKENIZE_BOS);
}

// Drops sentences from the end until the text fits.
static int trim(struct haystack *haystack, const struct parts *parts, const fathom_model *model,
                size_t n_tokens)
{
    const struct filler *filler = &parts->filler;
    size_t n_filler = filler->n;
    while (haystack->ids.n > n_tokens) {
        if (n_filler == 0)
            return say_error("%zu needles do not fit the %zu tokens that the length leaves beside "
                             "question and answer: give fewer --needles or larger --lengths",
                             parts->puzzle->n_facts, n_tokens);
        size_t sentence_tokens = filler->n_tokens / filler->n + 1;
        size_t n_drop = (haystack->ids.n - n_tokens + sentence_tokens - 1) / sentence_tokens;
        n_filler -= n_drop < n_filler ? n_drop : n_filler;
        SAY_TRY(measure(haystack, parts, n_filler, model));
    }
    return EXIT_GOOD;
}

static int build(struct haystack *haystack, struct parts *parts, struct random *random,
                 const fathom_model *model, size_t n_tokens)
{
    struct filler *filler = &parts->filler;
    SAY_TRY(block_grow(&filler->starts, &filler->n_max, 1, sizeof *filler->starts));
    filler->starts[0] = 0;
    SAY_TRY(measure(haystack, parts, 0, model));
    // A sentence alone may take more tokens than in a text, so what is missing is added in rounds.
    for (int round = 0; round < FILL_ROUNDS && haystack->ids.n < n_tokens; round++) {
        size_t n_missing = n_tokens - haystack->ids.n;
        SAY_TRY(make_filler(filler, random, model, n_missing));
        SAY_TRY(measure(haystack, parts, filler->n, model));
    }
    return trim(haystack, parts, model, n_tokens);
}

int haystack_build(struct haystack *haystack, struct random *random, const fathom_model *model,
                   const struct puzzle *puzzle, struct corpus *corpus, size_t n_tokens)
{
    struct parts parts = {
        .puzzle = puzzle, .facts = sort_facts(puzzle), .filler = {.corpus = corpus}};
    if (parts.facts == NULL) return EXIT_BAD;
    if (corpus != NULL) corpus_seek(corpus, random);
    int code = build(haystack, &parts, random, model, n_tokens);
    block_free(parts.facts);
    block_free(parts.filler.starts);
    bytes_free(&parts.filler.text);
    return code;
}

void haystack_free(struct haystack *haystack)
{
    bytes_free(&haystack->text);
    ids_free(&haystack->ids);
    *haystack = (struct haystack){0};
}
