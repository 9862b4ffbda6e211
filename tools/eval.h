// The tasks of `fathom eval`. As commands: argv[0] is the task's name.

#ifndef FATHOM_TOOLS_EVAL_H
#define FATHOM_TOOLS_EVAL_H

#include "tools/needle_task.h"

int eval_logits(int argc, char **argv);
int eval_needle(const struct needle_task *task, int argc, char **argv);

#endif
