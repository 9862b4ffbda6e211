// One text of a task: the prefill, its questions one by one, greedy answers.

#ifndef FATHOM_TOOLS_NEEDLE_RUN_H
#define FATHOM_TOOLS_NEEDLE_RUN_H

#include "tools/needle_score.h"
#include "tools/rig.h"

// Makes what a text hides and asks.
int needle_make(const struct needle_task *task, const struct needle_options *options,
                struct random *random, bool widest, struct puzzle *puzzle);

// Makes a text of n_text tokens, asks n_ask of its questions and counts the answers; or prints all
// that, if options->show, for which the rig needs a vocabulary alone. Where score->dense is not
// NULL, asks all of them again with everything read, and counts that there.
int needle_run(struct rig *rig, struct random *random, size_t n_text, size_t n_ask,
               struct needle_score *score, struct progress *progress);

#endif
