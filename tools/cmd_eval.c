// `fathom eval`: a table of tasks.

#include <stdio.h>
#include <string.h>

#include "tools/cmd.h"
#include "tools/eval.h"
#include "tools/say.h"

static const struct {
    const char *name;
    const char *text;
    int (*run)(int argc, char **argv);
} tasks[] = {
    {"logits", "next-token logits after each of given ids, to a file", eval_logits},
    {"niah", "questions about needles in long texts: score and speed", eval_niah},
};

int cmd_eval(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    for (size_t i = 0; i < sizeof tasks / sizeof tasks[0]; i++)
        if (strcmp(name, tasks[i].name) == 0) return tasks[i].run(argc - 1, argv + 1);
    if (argc < 2) return say_error("eval: no task; see fathom eval --help");
    if (strcmp(name, "--help") != 0 && strcmp(name, "-h") != 0)
        return say_error("eval: unknown task \"%s\"; see fathom eval --help", name);
    printf("fathom eval TASK [flags]\n\n");
    for (size_t i = 0; i < sizeof tasks / sizeof tasks[0]; i++)
        printf("  %-12s %s\n", tasks[i].name, tasks[i].text);
    printf("\nfathom eval TASK --help lists a task's flags.\n");
    return EXIT_HELPED;
}
