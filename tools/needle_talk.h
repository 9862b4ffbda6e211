// What a sequence holds and is given: a text and its questions, as plain text or as the messages of
// a model's chat template.

#ifndef FATHOM_TOOLS_NEEDLE_TALK_H
#define FATHOM_TOOLS_NEEDLE_TALK_H

#include "tools/haystack.h"

struct needle_talk {
    const fathom_model *model;
    const char *chat_template; // NULL: plain text
    const char *text;
    struct ids held; // what the sequence holds
    size_t n_shared; // of them, what every question has before it
};

// Begins with what all questions share, as held. Model, template and haystack are borrowed until
// needle_talk_free, which may be called after a failure.
int needle_talk_open(struct needle_talk *talk, const fathom_model *model, const char *chat_template,
                     const struct haystack *haystack, const struct puzzle *puzzle);
void needle_talk_free(struct needle_talk *talk);

// Appends to empty ids all that the sequence is to hold for the i-th turn's answer to follow: the
// text, and what the question's turns before it asked and got.
int needle_talk_turn(const struct needle_talk *talk, const struct puzzle *puzzle,
                     const struct question *question, size_t i, struct ids *ids);

// Held ids that are the wanted ones, from the first on; never all of these, for a last one must be
// fed.
size_t needle_talk_same(const struct needle_talk *talk, const struct ids *wanted);

// The most tokens that an answer may take.
int needle_talk_limit(const fathom_model *model, const char *answer, size_t *n);

// Tokens that a question takes at most with its answers, besides the text's.
int needle_talk_count(const fathom_model *model, const char *chat_template,
                      const struct puzzle *puzzle, const struct question *question, size_t *n);

#endif
