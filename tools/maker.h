// Making the facts and questions of a text: words of chance, and forms filled with them.

#ifndef FATHOM_TOOLS_MAKER_H
#define FATHOM_TOOLS_MAKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tools/puzzle.h"
#include "tools/sentence.h"

struct word {
    char text[40]; // zero-terminated
};

struct pair {
    struct word key, n;
    size_t fact;
};

// The first six are set by whoever begins; all else zeroed.
struct maker {
    struct puzzle *puzzle;
    struct random *random;
    uint32_t n_needles; // facts to make
    uint32_t n_depths;  // equal parts of the text that facts are spread over
    uint32_t n_each;    // facts that belong together, of tasks that say so
    bool widest;        // the longest words only, for measuring

    size_t n_answers;  // facts made so far that questions end at
    struct word *used; // [n_used], which no other fact may have
    size_t n_used, n_used_max;
    struct pair *pairs; // [n_pairs]
    uint32_t *order;    // [n_pairs] indices, those chosen first
    size_t n_pairs;
    struct bytes fact, ask, answer; // under construction
};

void maker_free(struct maker *maker);

// A kind of words: how one is made, and how long it can be.
struct word_kind {
    void (*make)(struct sentence *out, struct random *random);
    size_t bytes_max;
};
extern const struct word_kind maker_key, maker_name, maker_hash, maker_variable;

bool maker_has(const struct maker *maker, const char *text);
int maker_use(struct maker *maker, const struct word *word);
// A word of chance that no fact has yet.
int maker_word(struct maker *maker, const struct word_kind *kind, struct word *word);
// Five digits.
void maker_digits(struct maker *maker, struct word *word);

// What stands for a form's {name}.
struct field {
    const char *name, *value;
};

#define FIELDS(...) ((const struct field[]){__VA_ARGS__, {NULL, NULL}})

// Appends a form, all of whose names are among the fields.
int maker_fill(struct bytes *text, const char *form, const struct field *fields);

// Hides a fact. Where a question ends at it, it goes to the part of the text behind the last such
// fact's, so that all parts have as many; else to one of chance.
int maker_fact(struct maker *maker, const char *form, const struct field *fields, bool answers);
size_t maker_last_fact(const struct maker *maker);

// Hides n keys with numbers, for questions to choose from. Once.
int maker_pairs(struct maker *maker, const char *form, size_t n, bool answers);
// Puts n pairs of chance first in the order.
void maker_choose(struct maker *maker, size_t n);

// Adds a turn from what `ask` and `answer` hold, which are empty then.
int maker_end_turn(struct maker *maker);
// Adds a turn of one form.
int maker_turn(struct maker *maker, const char *ask, const char *answer,
               const struct field *fields);
// Makes the turns since the last question the next one, whose answer is in the last fact.
int maker_end_question(struct maker *maker);

#endif
