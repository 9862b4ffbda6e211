// The tasks of `fathom eval`. As commands: argv[0] is the task's name.

#ifndef FATHOM_TOOLS_EVAL_H
#define FATHOM_TOOLS_EVAL_H

int eval_logits(int argc, char **argv);
int eval_niah(int argc, char **argv);

#endif
