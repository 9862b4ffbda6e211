// The tasks of `fathom eval` that hide needles in texts, run on the needle model. It was trained on
// niah's form, so other tasks are not judged by their scores. argv[1] is the command.

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "tests/check.h"
#include "tests/tools/cli.h"

static void t_niah(void **state)
{
    (void)state;
    static const char line[] = "eval niah -m $M --lengths 1k,2k --needles 8 --questions 12";
    json_t *rows = cli_json(cli_run("%s --seed 3 -o json", line));
    assert_int_equal(json_array_size(rows), 2);
    for (size_t i = 0; i < 2; i++) {
        const json_t *row = json_array_get(rows, i);
        assert_int_equal(json_integer_value(json_object_get(row, "length")), 1024 << i);
        assert_int_equal(json_integer_value(json_object_get(row, "questions")), 12);
        assert_int_equal(json_integer_value(json_object_get(row, "prefills")), 2);
        assert_true(json_real_value(json_object_get(row, "score")) >= 0.9);
        // Text, question and answer come close to the length asked for.
        json_int_t n = json_integer_value(json_object_get(row, "prefill_tokens"));
        assert_in_range(n, 2 * ((1024 << i) - 350), 2 * (1024 << i));
    }
    json_decref(rows);
    struct cli cli = cli_run("%s", line);
    cli_expect_good(cli);
    assert_non_null(strstr(cli.out, "|     1024 |       8 |        12 |"));
    cli = cli_run("%s --min-score 1 --rope-freq-base 100 -o json", line);
    assert_int_equal(cli.code, 1);
    assert_non_null(strstr(cli.err, "--min-score"));
}

// What was answered when it was interrupted is told.
static void t_interrupted(void **state)
{
    (void)state;
    char *argv[] = {"fathom",    "eval", "niah",        "-m",     cli_model(), "--lengths", "1k",
                    "--needles", "8",    "--questions", "100000", "--print",   NULL};
    FILE *out;
    char line[512];
    int fd, status;
    const int pid = cli_start(argv, &fd);
    out = fdopen(fd, "r");
    assert_non_null(out);
    while (fgets(line, sizeof line, out) != NULL && line[0] != '(') // "(right)"
        continue;
    assert_int_equal(kill(pid, SIGINT), 0);
    bool told = false;
    while (fgets(line, sizeof line, out) != NULL)
        told = told || strstr(line, "|     1024 |       8 |") != NULL;
    (void)fclose(out);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 128 + SIGINT);
    assert_true(told);
}

// With few tokens picked of few, the first stage's candidates must not be few as well.
static void t_niah_sparse(void **state)
{
    (void)state;
    if (check_few()) check_skip("8,192 tokens take too long");
    cli_expect_good(cli_run("eval niah -m $M --lengths 8k --needles 32 --questions 32 --seed 5 "
                            "--kv-mode sparse --kv-budget 1%% --min-score 0.95"));
}

// Each token of a prompt finds what it seeks, though it picks with others: the questions are read
// sparsely too, and it is their last tokens that seek the needles.
static void t_niah_sparse_prefill(void **state)
{
    (void)state;
    if (check_few()) check_skip("16,384 tokens take too long");
    for (int seed = 1; seed <= 2; seed++)
        cli_expect_good(cli_run("eval niah -m $M --lengths 16k --needles 32 --questions 32 "
                                "--seed %d --kv-mode sparse --kv-prefill sparse --min-score 0.95",
                                seed));
}

// Keys that share their words are told apart.
static void t_multikey(void **state)
{
    (void)state;
    cli_expect_good(cli_run("eval multikey -m $M --lengths 2k --needles 16 --questions 32 --seed 2 "
                            "--min-score 0.9"));
}

// Flags that go well with 1024 tokens, and the name of what is counted besides whole answers.
static const struct {
    const char *task, *flags, *part;
} tasks[] = {
    {"niah", "--needles 8", "digit_score"},
    {"multikey", "--needles 8", "digit_score"},
    {"kvretrieval", "--needles 8", "digit_score"},
    {"vartrack", "--needles 8 --hops 3", "chain_score"},
    {"multiturn", "--needles 4", "turn_score"},
    {"longgen", "--needles 8 --items 4", "line_score"},
};
enum { N_TASKS = sizeof tasks / sizeof tasks[0], N_QUESTIONS = 5 };

// Checks the line of a question; returns whether the answer is exact.
static bool check_question(const char *line, size_t bytes, size_t task, size_t index)
{
    json_t *row = json_loadb(line, bytes, 0, NULL);
    if (row == NULL) fail_msg("not JSON: %.*s", (int)bytes, line);
    assert_string_equal(cli_text(row, "task"), tasks[task].task);
    assert_int_equal(cli_integer(row, "length"), 1024);
    assert_int_equal(cli_integer(row, "seed"), 4);
    assert_int_equal(cli_integer(row, "index"), index);
    const double depth = json_real_value(json_object_get(row, "depth"));
    assert_true(depth > 0 && depth < 1);
    const char *expected = cli_text(row, "expected"), *got = cli_text(row, "got");
    assert_true(strlen(expected) >= 5);
    const json_t *exact = json_object_get(row, "exact");
    assert_true(json_is_boolean(exact));
    const bool same = strcmp(expected, got) == 0;
    if (strcmp(tasks[task].task, "vartrack") != 0)
        assert_int_equal(json_is_true(exact), same);
    else if (same)
        assert_true(json_is_true(exact));
    const bool right = json_is_true(exact);
    json_decref(row);
    return right;
}

// Lines for all questions, the same with one thread and with two; the JSON counts them.
static void check_task(size_t task)
{
    char line[256];
    snprintf(line, sizeof line, "eval %s -m $M --lengths 1k --questions %d --seed 4 %s",
             tasks[task].task, N_QUESTIONS, tasks[task].flags);
    struct cli cli = cli_run("%s -t 1 -o jsonl", line);
    cli_expect_good(cli);
    char *lines = strdup(cli.out);
    size_t n = 0, n_exact = 0;
    for (const char *at = lines; *at != '\0'; n++) {
        const size_t bytes = strcspn(at, "\n");
        assert_int_equal(at[bytes], '\n');
        n_exact += check_question(at, bytes, task, n);
        at += bytes + 1;
    }
    assert_int_equal(n, N_QUESTIONS);
    cli = cli_run("%s -t 2 -o jsonl", line);
    cli_expect_good(cli);
    assert_string_equal(cli.out, lines);
    free(lines);
    json_t *rows = cli_json(cli_run("%s -o json", line));
    const json_t *row = json_array_get(rows, 0);
    assert_string_equal(cli_text(row, "task"), tasks[task].task);
    assert_int_equal(cli_integer(row, "questions"), N_QUESTIONS);
    assert_int_equal(cli_integer(row, "exact"), n_exact);
    const json_t *part = json_object_get(row, tasks[task].part);
    assert_true(json_is_real(part) && json_real_value(part) <= 1);
    json_decref(rows);
}

static void t_every_task(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_TASKS; i++) {
        print_message("%s\n", tasks[i].task);
        check_task(i);
    }
}

// Every part of the text gets as many of the needles that are asked for.
static void t_depths(void **state)
{
    (void)state;
    static const struct {
        const char *flags;
        int n_asked; // facts at each depth
    } cases[] = {
        {"niah --needles 8 --questions 16", 4},
        {"vartrack --needles 8 --hops 2 --questions 4", 1},
        {"longgen --needles 4 --questions 2", 2}, // --items is no more than --needles by itself
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *rows =
            cli_json(cli_run("eval %s -m $M --lengths 1k --depths 4 -o json", cases[i].flags));
        const json_t *depths = json_object_get(json_array_get(rows, 0), "depths");
        assert_int_equal(json_array_size(depths), 4);
        for (size_t j = 0; j < 4; j++) {
            const json_t *depth = json_array_get(depths, j);
            assert_true(json_real_value(json_object_get(depth, "depth")) == ((double)j + 0.5) / 4);
            assert_int_equal(cli_integer(depth, "asked"), cases[i].n_asked);
            assert_in_range(cli_integer(depth, "right"), 0, cases[i].n_asked);
        }
        json_decref(rows);
    }
}

// The tables' heads name what is counted; a score too low ends with 1 behind it.
static void t_tables(void **state)
{
    (void)state;
    struct cli cli = cli_run("eval vartrack -m $M --lengths 1k --needles 4 --questions 2 "
                             "--min-score 1 >%s",
                             cli_path("table"));
    assert_int_equal(cli.code, 1);
    assert_non_null(strstr(cli.err, "--min-score"));
    size_t bytes;
    char *table = cli_read_file(cli_path("table"), &bytes);
    assert_non_null(strstr(table, "| chains % |"));
    assert_non_null(strstr(table, "|     1024 |       4 |         2 |"));
    free(table);
    cli = cli_run("eval niah -m $M --lengths 1k --needles 4 --questions 4 --depths 2");
    assert_non_null(strstr(cli.out, " decode ms/token | % by depth |"));
    const char *end = strrchr(cli.out, '|');
    double first, second;
    assert_non_null(end);
    while (*--end != '|') {
    }
    assert_int_equal(sscanf(end, "| %lf %lf |", &first, &second), 2);
    assert_true(first >= 0 && first <= 100 && second >= 0 && second <= 100);
    assert_non_null(strstr(cli_run("eval longgen --help").out, "--items N"));
    assert_null(strstr(cli_run("eval niah --help").out, "--items N"));
}

// A long answer is scored by its lines. With another RoPE base most of them are wrong, not all.
static void t_lines(void **state)
{
    (void)state;
    json_t *rows = cli_json(cli_run("eval longgen -m $M --lengths 2k --needles 8 --items 4 "
                                    "--questions 8 --seed 4 --rope-freq-base 1e7 -o json"));
    const json_t *row = json_array_get(rows, 0);
    const double score = cli_real(row, "score");
    assert_true(score == cli_real(row, "line_score"));
    assert_true(score * 8 > (double)cli_integer(row, "exact"));
    json_decref(rows);
}

// Through a chat template every task runs, on as many prefills; auto takes the model's own.
static void t_chat(void **state)
{
    (void)state;
    static const char override[] = "--override-kv 'tokenizer.chat_template=str:<|im_start|>'";
    for (size_t i = 0; i < N_TASKS; i++) {
        char line[256];
        snprintf(line, sizeof line, "eval %s -m $M --lengths 2k --questions 3 %s -o json",
                 tasks[i].task, tasks[i].flags);
        json_t *named = cli_json(cli_run("%s --chat-template chatml", line));
        const json_t *row = json_array_get(named, 0);
        assert_string_equal(cli_text(row, "chat_template"), "chatml");
        assert_int_equal(cli_integer(row, "questions"), 3);
        const json_int_t n_texts = cli_integer(row, "prefills");
        const json_int_t n_tokens = cli_integer(row, "prefill_tokens");
        assert_in_range(n_tokens, 100 * n_texts, 2048 * n_texts);
        json_decref(named);
        json_t *detected = cli_json(cli_run("%s --chat-template auto %s", line, override));
        row = json_array_get(detected, 0);
        assert_string_equal(cli_text(row, "chat_template"), "chatml");
        assert_int_equal(cli_integer(row, "prefill_tokens"), n_tokens);
        json_decref(detected);
        json_t *plain = cli_json(cli_run("%s", line));
        row = json_array_get(plain, 0);
        assert_true(json_is_null(json_object_get(row, "chat_template")));
        assert_int_equal(cli_integer(row, "prefills"), n_texts);
        assert_int_not_equal(cli_integer(row, "prefill_tokens"), n_tokens);
        json_decref(plain);
    }
}

int main(int argc, char **argv)
{
    cli_open(argc > 1 ? argv[1] : "fathom");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t_interrupted), cmocka_unit_test(t_niah),
        cmocka_unit_test(t_niah_sparse), cmocka_unit_test(t_niah_sparse_prefill),
        cmocka_unit_test(t_multikey),    cmocka_unit_test(t_every_task),
        cmocka_unit_test(t_depths),      cmocka_unit_test(t_tables),
        cmocka_unit_test(t_lines),       cmocka_unit_test(t_chat),
    };
    int code = check_run("cli_eval", tests, sizeof tests / sizeof tests[0]);
    cli_close();
    return code;
}
