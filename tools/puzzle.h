// What a text hides and what is asked about it: facts, and questions of one or more turns.

#ifndef FATHOM_TOOLS_PUZZLE_H
#define FATHOM_TOOLS_PUZZLE_H

#include <stdbool.h>

#include "tools/bytes.h"
#include "tools/random.h"

struct fact {
    size_t text;  // see puzzle_text
    double place; // share of the filler that stands before it, in [0, 1)
};

struct turn {
    size_t ask, answer; // the right answer, to the end of its last line
    size_t got;         // what the model wrote; "" at first
};

// A fact that a question asks for. Answered right when a judge has said so.
struct asked {
    size_t fact;
    bool right;
};

struct question {
    size_t turn, n_turns;  // the first of its turns
    size_t asked, n_asked; // the first of its facts
    double depth;          // mean place of its facts
};

// Zeroed is empty.
struct puzzle {
    struct bytes texts; // zero-terminated, one behind the other
    struct fact *facts;
    size_t n_facts, n_facts_max;
    struct turn *turns;
    size_t n_turns, n_turns_max;
    struct asked *asked;
    size_t n_asked, n_asked_max;
    struct question *questions;
    size_t n_questions, n_questions_max;
};

// Keeps a copy; *at is where.
int puzzle_keep(struct puzzle *puzzle, const char *text, size_t bytes, size_t *at);
// Valid until the next text is kept.
const char *puzzle_text(const struct puzzle *puzzle, size_t at);

int puzzle_add_fact(struct puzzle *puzzle, const struct bytes *text, double place);
int puzzle_add_turn(struct puzzle *puzzle, const struct bytes *ask, const struct bytes *answer);
int puzzle_add_asked(struct puzzle *puzzle, size_t fact);
// The turns and asked facts that were added since the last question are the next one.
int puzzle_end_question(struct puzzle *puzzle);

// Puts n questions of chance, in an order of chance, before the others.
void puzzle_draw(struct puzzle *puzzle, struct random *random, size_t n);

void puzzle_free(struct puzzle *puzzle);

#endif
