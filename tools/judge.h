// Comparing what a model wrote with the right answers of a question. A judge marks each fact that
// was asked for as answered right or not, and returns how many pieces of the answer are right.
//
// Blanks around an answer, and the full stop or semicolon at its end, do not count.

#ifndef FATHOM_TOOLS_JUDGE_H
#define FATHOM_TOOLS_JUDGE_H

#include "tools/puzzle.h"

struct judgement {
    size_t n_right, n; // pieces
};

// One answer; the pieces are its characters.
struct judgement judge_characters(struct puzzle *puzzle, const struct question *question);

// One answer that ends in " is N"; right when the last such number is. The piece is the whole.
struct judgement judge_last_number(struct puzzle *puzzle, const struct question *question);

// The last turn's answer; the pieces are all turns'.
struct judgement judge_turns(struct puzzle *puzzle, const struct question *question);

// One answer of a line for each fact; the pieces are the lines.
struct judgement judge_lines(struct puzzle *puzzle, const struct question *question);

// The text from its first character that is no blank, and its bytes without what does not count.
const char *judge_trim(const char *text, size_t *bytes);

#endif
