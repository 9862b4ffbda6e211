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

int main(int argc, char **argv)
{
    cli_open(argc > 1 ? argv[1] : "fathom");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t_prompt_is_shown_as_given),
    };
    int code = check_run("cli_spm", tests, sizeof tests / sizeof tests[0]);
    cli_close();
    return code;
}
