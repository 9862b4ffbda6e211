// What a model is given of a text and its questions, in the needle model's tokens, which are bytes
// behind a beginning of text.

#include <stdlib.h>
#include <string.h>

#include "tests/check.h"
#include "tools/bytes.h"
#include "tools/needle_talk.h"
#include "tools/say.h"

#define TEXT "A fact. Another.\n"

static fathom_model *model;

static void good(int code)
{
    assert_int_equal(code, EXIT_GOOD);
}

static void open_model(void)
{
    const char *root = getenv("FATHOM_SOURCE_ROOT");
    struct fathom_model_params params;
    char path[4096];
    snprintf(path, sizeof path, "%s/tools/needle/needle.gguf", root != NULL ? root : ".");
    fathom_model_params_init(&params);
    check_ok(fathom_model_open(path, &params, &model));
}

static void add_turn(struct puzzle *puzzle, const char *ask, const char *answer)
{
    struct bytes texts[2] = {{0}};
    good(bytes_append(&texts[0], ask, strlen(ask)));
    good(bytes_append(&texts[1], answer, strlen(answer)));
    good(puzzle_add_turn(puzzle, &texts[0], &texts[1]));
    bytes_free(&texts[0]);
    bytes_free(&texts[1]);
}

struct rig {
    struct haystack haystack;
    struct puzzle puzzle;
    struct needle_talk talk;
};

// Questions of one, two and one turns.
static void open_rig(struct rig *rig, const char *chat_template)
{
    static const struct fact fact = {0};
    *rig = (struct rig){0};
    struct puzzle *puzzle = &rig->puzzle;
    struct bytes text = {0};
    good(bytes_append(&text, "A fact.", 7));
    good(puzzle_add_fact(puzzle, &text, fact.place));
    bytes_free(&text);
    static const char *const turns[][2] = {
        {"Question: What?\nAnswer: It is ", "that.\n"},
        {"Question: Who?\nAnswer:\n", "1. He.\n"},
        {"Question: And?\nAnswer: ", "More.\n"},
        {"Lookup x -> ", "y;\n"},
    };
    for (size_t i = 0; i < 4; i++) {
        add_turn(puzzle, turns[i][0], turns[i][1]);
        good(puzzle_add_asked(puzzle, 0));
        if (i != 1) good(puzzle_end_question(puzzle));
    }
    good(bytes_append(&rig->haystack.text, TEXT, strlen(TEXT)));
    good(ids_append_text(&rig->haystack.ids, model, TEXT, strlen(TEXT), FATHOM_TOKENIZE_BOS));
    good(needle_talk_open(&rig->talk, model, chat_template, &rig->haystack, puzzle));
}

static void close_rig(struct rig *rig)
{
    needle_talk_free(&rig->talk);
    puzzle_free(&rig->puzzle);
    haystack_free(&rig->haystack);
}

static void check_text(const struct ids *ids, const char *wanted)
{
    struct bytes text = {0};
    assert_true(ids->n > 0);
    assert_int_equal(ids->data[0], fathom_model_info(model)->bos_id);
    good(ids_print(ids->data, ids->n, model, false, &text));
    assert_string_equal(text.data, wanted);
    bytes_free(&text);
}

// The i-th turn of a question; the sequence then holds it, and the answer.
static void check_turn(struct rig *rig, size_t question, size_t i, const char *got,
                       const char *wanted)
{
    const struct question *q = &rig->puzzle.questions[question];
    struct ids ids = {0};
    good(needle_talk_turn(&rig->talk, &rig->puzzle, q, i, &ids));
    check_text(&ids, wanted);
    assert_in_range(needle_talk_same(&rig->talk, &ids), rig->talk.n_shared, ids.n - 1);
    ids_free(&rig->talk.held);
    rig->talk.held = ids;
    good(ids_append_text(&rig->talk.held, model, got, strlen(got), 0));
    good(puzzle_keep(&rig->puzzle, got, strlen(got), &rig->puzzle.turns[q->turn + i].got));
    size_t n;
    good(needle_talk_count(model, rig->talk.chat_template, &rig->puzzle, q, &n));
    assert_true(rig->talk.held.n <= rig->haystack.ids.n + n);
}

static void forget_question(struct rig *rig)
{
    rig->talk.held.n = rig->talk.n_shared;
}

static void t_plain(void **state)
{
    struct rig rig;
    (void)state;
    open_rig(&rig, NULL);
    check_text(&rig.talk.held, TEXT);
    check_turn(&rig, 0, 0, "that", TEXT "Question: What?\nAnswer: It is ");
    forget_question(&rig);
    check_turn(&rig, 1, 0, "1. He.", TEXT "Question: Who?\nAnswer:\n");
    check_turn(&rig, 1, 1, "More.\n",
               TEXT "Question: Who?\nAnswer:\n1. He.\nQuestion: And?\nAnswer: ");
    forget_question(&rig);
    check_turn(&rig, 2, 0, "y", TEXT "Lookup x -> ");
    close_rig(&rig);
}

#define USER      "<|im_start|>user\n"
#define ASSISTANT "<|im_end|>\n<|im_start|>assistant\n"

static void t_chat(void **state)
{
    struct rig rig;
    (void)state;
    open_rig(&rig, "chatml");
    check_text(&rig.talk.held, USER "A fact. Another.");
    check_turn(&rig, 0, 0, "that", USER TEXT "Question: What?" ASSISTANT "Answer: It is ");
    forget_question(&rig);
    check_turn(&rig, 1, 0, "1. He.\n", USER TEXT "Question: Who?" ASSISTANT "Answer:\n");
    check_turn(&rig, 1, 1, "More.",
               USER TEXT "Question: Who?" ASSISTANT "Answer:\n1. He.<|im_end|>\n" USER
                         "Question: And?" ASSISTANT "Answer: ");
    forget_question(&rig);
    check_turn(&rig, 2, 0, "y", USER TEXT "Lookup x ->" ASSISTANT "Lookup x -> ");
    close_rig(&rig);
}

// What ids have in common ends before the last, whose logits are wanted.
static void t_same(void **state)
{
    int32_t held[] = {1, 2, 3}, wanted[] = {1, 2, 3, 4, 5};
    const struct needle_talk talk = {.held = {held, 3, 3}};
    (void)state;
    assert_int_equal(needle_talk_same(&talk, &(struct ids){wanted, 5, 5}), 3);
    assert_int_equal(needle_talk_same(&talk, &(struct ids){wanted, 3, 3}), 2);
    wanted[1] = 7;
    assert_int_equal(needle_talk_same(&talk, &(struct ids){wanted, 5, 5}), 1);
}

int main(void)
{
    open_model();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t_plain),
        cmocka_unit_test(t_chat),
        cmocka_unit_test(t_same),
    };
    int code = check_run("needle_talk", tests, sizeof tests / sizeof tests[0]);
    fathom_model_close(&model);
    return code;
}
