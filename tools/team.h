// A few threads for work of the command itself: making rows, measuring memory. The library's own
// team is not among the public headers.

#ifndef FATHOM_TOOLS_TEAM_H
#define FATHOM_TOOLS_TEAM_H

#include <stdint.h>

struct team;

// n_threads 0: one for each processor. The caller is thread 0 of them.
int team_open(uint32_t n_threads, struct team **team);
void team_close(struct team **team);
uint32_t team_count(const struct team *team);

// Runs fn once on every thread and returns when all are done. One caller at a time.
typedef void (*team_fn)(void *arg, uint32_t thread, uint32_t n_threads);
void team_run(struct team *team, team_fn fn, void *arg);

#endif
