// Judging answers, on puzzles made here: what counts as right, and which pieces are.

#include <string.h>

#include "tests/check.h"
#include "tools/judge.h"
#include "tools/say.h"

static struct bytes bytes_of(const char *text)
{
    struct bytes bytes = {0};
    assert_int_equal(bytes_append(&bytes, text, strlen(text)), EXIT_GOOD);
    return bytes;
}

static void add_turn(struct puzzle *puzzle, const char *answer, const char *got)
{
    struct bytes ask = bytes_of("?"), right = bytes_of(answer);
    assert_int_equal(puzzle_add_turn(puzzle, &ask, &right), EXIT_GOOD);
    struct turn *turn = &puzzle->turns[puzzle->n_turns - 1];
    assert_int_equal(puzzle_keep(puzzle, got, strlen(got), &turn->got), EXIT_GOOD);
    bytes_free(&ask);
    bytes_free(&right);
}

static void end_question(struct puzzle *puzzle, size_t n_facts)
{
    for (size_t i = 0; i < n_facts; i++) {
        struct bytes fact = bytes_of("fact");
        assert_int_equal(puzzle_add_fact(puzzle, &fact, 0.5), EXIT_GOOD);
        assert_int_equal(puzzle_add_asked(puzzle, i), EXIT_GOOD);
        bytes_free(&fact);
    }
    assert_int_equal(puzzle_end_question(puzzle), EXIT_GOOD);
}

typedef struct judgement judge_fn(struct puzzle *puzzle, const struct question *question);

struct answer_case {
    const char *answer, *got;
    size_t n_right, n;
    bool right;
};

static void check_cases(judge_fn *judge, const struct answer_case *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        print_message("\"%s\" for \"%s\"\n", cases[i].got, cases[i].answer);
        struct puzzle puzzle = {0};
        add_turn(&puzzle, cases[i].answer, cases[i].got);
        end_question(&puzzle, 1);
        struct judgement result = judge(&puzzle, &puzzle.questions[0]);
        assert_int_equal(result.n_right, cases[i].n_right);
        assert_int_equal(result.n, cases[i].n);
        assert_int_equal(puzzle.asked[0].right, cases[i].right);
        puzzle_free(&puzzle);
    }
}

static void t_characters(void **state)
{
    (void)state;
    static const struct answer_case cases[] = {
        {"12345.\n", "12345", 5, 5, true},    {"12345.\n", " \n12345.", 5, 5, true},
        {"12345.\n", "123456", 5, 5, false},  {"12345.\n", "12845", 4, 5, false},
        {"12345.\n", "12 345", 2, 5, false},  {"12345.\n", "it is 12345", 0, 5, false},
        {"12345.\n", "", 0, 5, false},        {"0a1b2c3d;\n", "0a1b2c3d", 8, 8, true},
        {"0a1b2c3d;\n", "0a1b", 4, 8, false},
    };
    check_cases(judge_characters, cases, sizeof cases / sizeof cases[0]);
}

static void t_last_number(void **state)
{
    (void)state;
    static const char answer[] = "Variable A is B. Variable B is 12345.\n";
    static const struct answer_case cases[] = {
        {answer, "Variable A is B. Variable B is 12345.\n", 1, 1, true},
        {answer, "Variable A is C. Variable C is 12345.", 0, 1, true},
        {answer, "Variable A is 12345", 0, 1, true},
        {answer, "Variable A is 12345. Variable B is 54321.", 0, 1, false},
        {answer, "Variable A is 123456.", 0, 1, false},
        {answer, "12345", 0, 1, false},
        {answer, "", 0, 1, false},
    };
    check_cases(judge_last_number, cases, sizeof cases / sizeof cases[0]);
}

static void check_turns(const char *first, const char *last, size_t n_right, bool right)
{
    struct puzzle puzzle = {0};
    add_turn(&puzzle, "shai.\n", first);
    add_turn(&puzzle, "shai is 12345.\n", last);
    end_question(&puzzle, 1);
    struct judgement result = judge_turns(&puzzle, &puzzle.questions[0]);
    assert_int_equal(result.n_right, n_right);
    assert_int_equal(result.n, 2);
    assert_int_equal(puzzle.asked[0].right, right);
    puzzle_free(&puzzle);
}

static void t_turns(void **state)
{
    (void)state;
    check_turns("shai.\n", "shai is 12345.\n", 2, true);
    check_turns("shaito.\n", "shai is 12345.\n", 1, true);
    check_turns("shai.\n", "shaito is 12345.\n", 1, false);
    check_turns("shai.\n", "that guard is 12345.\n", 1, false);
    check_turns("", "", 0, false);
}

static void check_lines(const char *got, bool first, bool second, bool third)
{
    struct puzzle puzzle = {0};
    add_turn(&puzzle, "1. a b is 11111.\n2. c d is 22222.\n3. e f is 33333.\n", got);
    end_question(&puzzle, 3);
    struct judgement result = judge_lines(&puzzle, &puzzle.questions[0]);
    assert_int_equal(result.n_right, first + second + third);
    assert_int_equal(result.n, 3);
    const bool wanted[] = {first, second, third};
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(puzzle.asked[i].right, wanted[i]);
    puzzle_free(&puzzle);
}

static void t_lines(void **state)
{
    (void)state;
    check_lines("1. a b is 11111.\n2. c d is 22222.\n3. e f is 33333.\n", true, true, true);
    check_lines(" 1. a b is 11111\n\n2. c d is 22222\n3. e f is 33333", true, true, true);
    check_lines("1. a b is 11111.\n2. c d is 22223.\n3. e f is 33333.\n", true, false, true);
    check_lines("1. a b is 11111.\n2. c d is 22222", true, true, false);
    check_lines("1. a b is 111112. c d is 22222.\n", false, false, false);
    check_lines("2. c d is 22222.\n", false, false, false);
    check_lines("", false, false, false);
}

// Questions are drawn without one twice, and know their own turns and facts.
static void t_draw(void **state)
{
    (void)state;
    enum { N = 20 };
    struct puzzle puzzle = {0};
    for (size_t i = 0; i < N; i++) {
        add_turn(&puzzle, "a.\n", "");
        if (i % 2 == 1) add_turn(&puzzle, "b.\n", "");
        end_question(&puzzle, 1 + i % 3);
    }
    struct random random;
    random_init(&random, 1);
    puzzle_draw(&puzzle, &random, N);
    bool seen[2 * N] = {false};
    size_t n_moved = 0;
    for (size_t i = 0; i < N; i++) {
        const struct question *question = &puzzle.questions[i];
        const size_t turn = question->turn, was = (2 * turn + 1) / 3;
        assert_false(seen[turn]);
        seen[turn] = true;
        assert_int_equal(question->n_turns, 1 + was % 2);
        assert_int_equal(question->n_asked, 1 + was % 3);
        n_moved += was != i;
    }
    assert_in_range(n_moved, N / 2, N);
    puzzle_free(&puzzle);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t_characters), cmocka_unit_test(t_last_number), cmocka_unit_test(t_turns),
        cmocka_unit_test(t_lines),      cmocka_unit_test(t_draw),
    };
    return check_run("judge", tests, sizeof tests / sizeof tests[0]);
}
