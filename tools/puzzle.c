// Growing lists behind a puzzle. Texts are kept by offset, for they move as more come.

#include "tools/puzzle.h"

#include <stdlib.h>

#include "tools/block.h"
#include "tools/say.h"

int puzzle_keep(struct puzzle *puzzle, const char *text, size_t bytes, size_t *at)
{
    const size_t begin = puzzle->texts.n;
    SAY_TRY(bytes_append(&puzzle->texts, text, bytes));
    SAY_TRY(bytes_append(&puzzle->texts, "", 1));
    *at = begin;
    return EXIT_GOOD;
}

const char *puzzle_text(const struct puzzle *puzzle, size_t at)
{
    return puzzle->texts.data + at;
}

int puzzle_add_fact(struct puzzle *puzzle, const struct bytes *text, double place)
{
    SAY_TRY(block_grow(&puzzle->facts, &puzzle->n_facts_max, puzzle->n_facts + 1,
                       sizeof *puzzle->facts));
    struct fact *fact = &puzzle->facts[puzzle->n_facts++];
    fact->place = place;
    return puzzle_keep(puzzle, text->data, text->n, &fact->text);
}

int puzzle_add_turn(struct puzzle *puzzle, const struct bytes *ask, const struct bytes *answer)
{
    SAY_TRY(block_grow(&puzzle->turns, &puzzle->n_turns_max, puzzle->n_turns + 1,
                       sizeof *puzzle->turns));
    struct turn *turn = &puzzle->turns[puzzle->n_turns++];
    SAY_TRY(puzzle_keep(puzzle, ask->data, ask->n, &turn->ask));
    SAY_TRY(puzzle_keep(puzzle, answer->data, answer->n, &turn->answer));
    return puzzle_keep(puzzle, "", 0, &turn->got);
}

int puzzle_add_asked(struct puzzle *puzzle, size_t fact)
{
    SAY_TRY(block_grow(&puzzle->asked, &puzzle->n_asked_max, puzzle->n_asked + 1,
                       sizeof *puzzle->asked));
    puzzle->asked[puzzle->n_asked++] = (struct asked){.fact = fact};
    return EXIT_GOOD;
}

int puzzle_end_question(struct puzzle *puzzle)
{
    SAY_TRY(block_grow(&puzzle->questions, &puzzle->n_questions_max, puzzle->n_questions + 1,
                       sizeof *puzzle->questions));
    struct question question = {0};
    if (puzzle->n_questions > 0) {
        const struct question *before = &puzzle->questions[puzzle->n_questions - 1];
        question.turn = before->turn + before->n_turns;
        question.asked = before->asked + before->n_asked;
    }
    question.n_turns = puzzle->n_turns - question.turn;
    question.n_asked = puzzle->n_asked - question.asked;
    for (size_t i = 0; i < question.n_asked; i++)
        question.depth += puzzle->facts[puzzle->asked[question.asked + i].fact].place;
    question.depth /= (double)question.n_asked;
    puzzle->questions[puzzle->n_questions++] = question;
    return EXIT_GOOD;
}

static int compare_depths(const void *a, const void *b)
{
    const struct question *x = a, *y = b;
    if (x->depth != y->depth) return x->depth > y->depth ? 1 : -1;
    return (x->turn > y->turn) - (x->turn < y->turn);
}

void puzzle_draw(struct puzzle *puzzle, struct random *random, size_t n)
{
    struct question *questions = puzzle->questions;
    qsort(questions, puzzle->n_questions, sizeof *questions, compare_depths);
    for (size_t i = 0; i < n; i++) {
        size_t chosen = i + random_below(random, (uint32_t)(puzzle->n_questions - i));
        struct question question = questions[chosen];
        questions[chosen] = questions[i];
        questions[i] = question;
    }
}

void puzzle_free(struct puzzle *puzzle)
{
    bytes_free(&puzzle->texts);
    block_free(puzzle->facts);
    block_free(puzzle->turns);
    block_free(puzzle->asked);
    block_free(puzzle->questions);
    *puzzle = (struct puzzle){0};
}
