// The `fathom` command: a table of sub-commands. A client of the public headers, like any other.

#include <stdio.h>
#include <string.h>

#include "fathom/fathom.h"
#include "tools/cmd.h"
#include "tools/interrupt.h"
#include "tools/output.h"
#include "tools/say.h"

static const struct {
    const char *name;
    const char *text;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"run", "generate text, or converse (-cnv)", cmd_run},
    {"tokenize", "token ids of a text", cmd_tokenize},
    {"detokenize", "text of token ids", cmd_detokenize},
    {"inspect", "what a GGUF file holds", cmd_inspect},
    {"bench", "speed of prefill and decode, at depth; bench attend: of attention alone", cmd_bench},
    {"perplexity", "quality on a text, and KL divergence from a base", cmd_perplexity},
    {"eval", "logits of given ids; needle questions over long texts", cmd_eval},
};

static int print_help(void)
{
    printf("fathom COMMAND [flags]\n\n");
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        printf("  %-12s %s\n", commands[i].name, commands[i].text);
    printf("\nfathom COMMAND --help, or fathom help COMMAND, lists a command's flags; fathom "
           "--version.\n");
    return EXIT_GOOD;
}

static int dispatch(int argc, char **argv);

// `fathom help COMMAND` is `fathom COMMAND --help`. argv[0] is "help", and its place is free.
static int help_on(int argc, char **argv)
{
    char flag[] = "--help";
    for (int i = 1; i < argc; i++)
        argv[i - 1] = argv[i];
    argv[argc - 1] = flag;
    return dispatch(argc + 1, argv - 1);
}

static int dispatch(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) return print_help();
    if (strcmp(name, "help") == 0) return help_on(argc - 1, argv + 1);
    if (strcmp(name, "--version") == 0) {
        if (argc > 2) return say_error("unexpected argument \"%s\"; see fathom --help", argv[2]);
        printf("fathom %s\n", fathom_version());
        return EXIT_GOOD;
    }
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(name, commands[i].name) == 0) return commands[i].run(argc - 1, argv + 1);
    if (argc < 2) return say_error("no command; see fathom --help");
    if (name[0] == '-') return say_error("%s: flags follow a command; see fathom --help", name);
    return say_error("unknown command \"%s\"; see fathom --help", name);
}

int main(int argc, char **argv)
{
    interrupt_catch();
    int code = dispatch(argc, argv);
    if (code == EXIT_HELPED) code = EXIT_GOOD;
    if (code == EXIT_INTERRUPTED) {
        say_note("interrupted");
        code = interrupt_code();
    }
    if (code == EXIT_GOOD) code = output_check();
    return code;
}
