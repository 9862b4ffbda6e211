// The commands of `fathom`. Each takes argv as main does (argv[0] is the command's name) and
// returns an exit code of tools/say.h.

#ifndef FATHOM_TOOLS_CMD_H
#define FATHOM_TOOLS_CMD_H

int cmd_run(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_detokenize(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_perplexity(int argc, char **argv);
int cmd_eval(int argc, char **argv);

#endif
