// The command on a model with a SentencePiece vocabulary, which puts a space before a text's first
// word: stories260K, converted here. argv[1] is the command.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/check.h"
#include "tests/tools/cli.h"

// Writes the model to `path`, or skips the test.
static void convert(const char *path)
{
    static const char *const pythons[] = {"/usr/bin/python3", "python3"};
    const char *root = getenv("FATHOM_SOURCE_ROOT");
    char line[16384];
    for (size_t i = 0; i < sizeof pythons / sizeof pythons[0]; i++) {
        snprintf(line, sizeof line, "%s -c 'import numpy' 2>%s", pythons[i], cli_path("messages"));
        if (system(line) != 0) continue;
        snprintf(line, sizeof line, "%s -B '%s/tools/convert_llama2c.py' '%s' '%s' %s", pythons[i],
                 root != NULL ? root : ".", check_data("stories260K/stories260K.bin"),
                 check_data("stories260K/tok512.bin"), path);
        assert_int_equal(system(line), 0);
        return;
    }
    check_skip("no python3 with numpy");
}

static void t_prompt_is_shown_as_given(void **state)
{
    (void)state;
    static const char line[] = "--display-prompt --temp 0 -n 4";
    char model[512];
    snprintf(model, sizeof model, "%s", cli_path("stories.gguf"));
    convert(model);
    struct cli cli = cli_run("run -m %s -p 'Once upon' %s", model, line);
    cli_expect_good(cli);
    assert_string_equal(cli.out, "Once upon a time, there");
    assert_string_equal(cli_run("run -m %s -p ' Once upon' %s", model, "--display-prompt -n 0").out,
                        " Once upon");
    cli = cli_run("run -m %s -p 'Once upon' %s --special", model, line);
    assert_string_equal(cli.out, "<s>Once upon a time, there");
    // Nor does a reply to nothing begin with that space.
    cli = cli_run("run -m %s -p '' %s", model, line);
    cli_expect_good(cli);
    assert_true(cli.out_bytes > 0 && cli.out[0] != ' ');
}

// Where all is read, a cache that seals and merges says what a dense one does, up to the context's
// end.
static void t_exact_modes(void **state)
{
    (void)state;
    static const char *const modes[] = {"stream", "sparse --kv-budget 100%"};
    static const char line[] = "-p '' --temp 0 --ignore-eos -c 512 -lv 0 --kv-mode";
    char model[512], stats[512];
    size_t bytes;
    snprintf(model, sizeof model, "%s", cli_path("stories.gguf"));
    snprintf(stats, sizeof stats, "%s", cli_path("stats"));
    convert(model);
    struct cli cli = cli_run("run -m %s %s dense", model, line);
    cli_expect_good(cli);
    char *dense = strdup(cli.out);
    assert_true(cli.out_bytes > 500);
    for (size_t i = 0; i < 2; i++) {
        cli = cli_run("run -m %s %s %s --kv-segment 64,128 --kv-window 32 --kv-stats %s", model,
                      line, modes[i], stats);
        cli_expect_good(cli);
        assert_string_equal(cli.out, dense);
        char *text = cli_read_file(stats, &bytes);
        json_t *json = cli_parse(text);
        assert_in_range(json_integer_value(json_object_get(json, "n_segments")), 3, 6);
        json_decref(json);
        free(text);
    }
    free(dense);
}

int main(int argc, char **argv)
{
    cli_open(argc > 1 ? argv[1] : "fathom");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t_prompt_is_shown_as_given),
        cmocka_unit_test(t_exact_modes),
    };
    int code = check_run("cli_spm", tests, sizeof tests / sizeof tests[0]);
    cli_close();
    return code;
}
