// `fathom bench attend`: attention alone, over synthetic or recorded keys and values.

#ifndef FATHOM_TOOLS_BENCH_ATTEND_H
#define FATHOM_TOOLS_BENCH_ATTEND_H

// As a command: argv[0] is "attend".
int bench_attend(int argc, char **argv);

#endif
