// Long texts with needles in them, and the questions that find them: NEEDLE's form.
//
// Sentences of filler, and among them "The secret number of KEY is DDDDD." for keys that are all
// different. A question reads "Question: What is the secret number of KEY?\nAnswer: The secret
// number of KEY is ", and the digits are the answer.

#ifndef FATHOM_TOOLS_HAYSTACK_H
#define FATHOM_TOOLS_HAYSTACK_H

#include "tools/ids.h"
#include "tools/random.h"

enum { HAYSTACK_KEY_BYTES = 40, HAYSTACK_DIGITS = 5, HAYSTACK_QUESTION_BYTES = 160 };

struct needle {
    char key[HAYSTACK_KEY_BYTES];
    char digits[HAYSTACK_DIGITS + 1];
    double place; // share of the filler that stands before it, in [0, 1)
};

struct haystack {
    struct needle *needles; // [n_needles], in the order of the text
    size_t n_needles;
    struct ids ids; // the text, with BOS if the model wants one
};

// Chooses needles and fills up with sentences to at most n_tokens, as near as sentences allow.
int haystack_build(struct haystack *haystack, struct random *random, const fathom_model *model,
                   size_t n_needles, size_t n_tokens);
void haystack_free(struct haystack *haystack);

// The question for a needle, zero-terminated.
void haystack_question(const struct needle *needle, char text[HAYSTACK_QUESTION_BYTES]);

#endif
