// Answers are judged by their characters alone: what comes behind the right ones may be anything
// that does not go on with the same word or number.

#include "tools/judge.h"

#include <ctype.h>
#include <string.h>

static size_t skip_blanks(const char *text)
{
    return strspn(text, " \t\r\n");
}

// Bytes without blanks and a mark at the end.
static size_t trim_end(const char *text, size_t bytes)
{
    while (bytes > 0 && isspace((unsigned char)text[bytes - 1]))
        bytes--;
    if (bytes > 0 && (text[bytes - 1] == '.' || text[bytes - 1] == ';')) bytes--;
    return bytes;
}

const char *judge_trim(const char *text, size_t *bytes)
{
    text += skip_blanks(text);
    *bytes = trim_end(text, strlen(text));
    return text;
}

// Whether `got` says the first `bytes` of `wanted`, and then something else or nothing.
static bool says(const char *got, const char *wanted, size_t bytes)
{
    got += skip_blanks(got);
    return strncmp(got, wanted, bytes) == 0 && !isalnum((unsigned char)got[bytes]);
}

static bool turn_is_right(const struct puzzle *puzzle, const struct turn *turn)
{
    size_t bytes;
    const char *wanted = judge_trim(puzzle_text(puzzle, turn->answer), &bytes);
    return says(puzzle_text(puzzle, turn->got), wanted, bytes);
}

static void mark(struct puzzle *puzzle, const struct question *question, bool right)
{
    for (size_t i = 0; i < question->n_asked; i++)
        puzzle->asked[question->asked + i].right = right;
}

struct judgement judge_characters(struct puzzle *puzzle, const struct question *question)
{
    const struct turn *turn = &puzzle->turns[question->turn];
    struct judgement result = {0};
    const char *wanted = judge_trim(puzzle_text(puzzle, turn->answer), &result.n);
    const char *got = puzzle_text(puzzle, turn->got);
    got += skip_blanks(got);
    static const char digits[] = "0123456789abcdef";
    const size_t n_digits = strspn(got, digits);
    for (size_t i = 0; i < result.n && i < n_digits; i++)
        result.n_right += got[i] == wanted[i];
    mark(puzzle, question, turn_is_right(puzzle, turn));
    return result;
}

// What stands behind the last " is " with a number behind it; "" if there is none.
static const char *find_last_number(const char *text)
{
    static const char before[] = " is ";
    const char *found = "";
    for (const char *at = text; (at = strstr(at, before)) != NULL; at++) {
        const char *number = at + sizeof before - 1;
        if (isdigit((unsigned char)*number)) found = number;
    }
    return found;
}

struct judgement judge_last_number(struct puzzle *puzzle, const struct question *question)
{
    const struct turn *turn = &puzzle->turns[question->turn];
    const char *wanted = find_last_number(puzzle_text(puzzle, turn->answer));
    const char *got = find_last_number(puzzle_text(puzzle, turn->got));
    mark(puzzle, question, says(got, wanted, trim_end(wanted, strlen(wanted))));
    return (struct judgement){turn_is_right(puzzle, turn), 1};
}

struct judgement judge_turns(struct puzzle *puzzle, const struct question *question)
{
    struct judgement result = {.n = question->n_turns};
    bool right = false; // of the last turn, in the end
    for (size_t i = 0; i < question->n_turns; i++) {
        right = turn_is_right(puzzle, &puzzle->turns[question->turn + i]);
        result.n_right += right;
    }
    mark(puzzle, question, right);
    return result;
}

struct judgement judge_lines(struct puzzle *puzzle, const struct question *question)
{
    const struct turn *turn = &puzzle->turns[question->turn];
    const char *wanted = puzzle_text(puzzle, turn->answer);
    const char *got = puzzle_text(puzzle, turn->got);
    struct judgement result = {.n = question->n_asked};
    for (size_t i = 0; i < question->n_asked; i++) {
        got += skip_blanks(got);
        bool right = says(got, wanted, trim_end(wanted, strcspn(wanted, "\n")));
        puzzle->asked[question->asked + i].right = right;
        result.n_right += right;
        got += strcspn(got, "\n");
        wanted += strcspn(wanted, "\n") + 1;
    }
    return result;
}
