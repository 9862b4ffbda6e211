// `fathom eval`: logits, and the tasks with needles.

#include <stdio.h>
#include <string.h>

#include "tools/cmd.h"
#include "tools/eval.h"
#include "tools/say.h"

static void print_tasks(void)
{
    static const char line[] = "  %-12s %s\n";
    printf("fathom eval TASK [flags]\n\n");
    printf(line, "logits", "next-token logits after each of given ids, to a file");
    for (size_t i = 0; i < NEEDLE_TASKS; i++)
        printf(line, needle_tasks[i].name, needle_tasks[i].text);
    printf("\nfathom eval TASK --help lists a task's flags.\n");
}

int cmd_eval(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    if (strcmp(name, "logits") == 0) return eval_logits(argc - 1, argv + 1);
    for (size_t i = 0; i < NEEDLE_TASKS; i++)
        if (strcmp(name, needle_tasks[i].name) == 0)
            return eval_needle(&needle_tasks[i], argc - 1, argv + 1);
    if (argc < 2) return say_error("eval: no task; see fathom eval --help");
    if (strcmp(name, "--help") != 0 && strcmp(name, "-h") != 0)
        return say_error("eval: unknown task \"%s\"; see fathom eval --help", name);
    print_tasks();
    return EXIT_HELPED;
}
