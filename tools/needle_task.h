// The tasks of `fathom eval` that hide facts in long texts: what they hide, ask and count.
//
// Forms are those of tools/needle/tasks.py, byte for byte, for models are trained on them.

#ifndef FATHOM_TOOLS_NEEDLE_TASK_H
#define FATHOM_TOOLS_NEEDLE_TASK_H

#include "tools/corpus.h"
#include "tools/flags.h"
#include "tools/judge.h"
#include "tools/maker.h"

struct needle_options {
    struct flag_counts lengths;
    uint32_t n_needles, n_questions, n_depths, n_each; // see struct maker
    int64_t seed;
    float min_score;
    const char *format;
    const char *chat_template; // NULL: plain text
    const char *text;          // a file; NULL: filler is made up
    struct corpus *corpus;     // of that file
    bool show, print, dense_too;
    bool kl_dense;
};

struct needle_task {
    const char *name;
    const char *text;  // one line for `fathom eval --help`
    const char *about; // for the task's own page
    const char *part;  // what of an answer is counted besides the whole: "digit"
    bool by_part;      // the score is the share of right parts, else of exact answers
    bool fixed;        // an answer is done as soon as it is as long as the right one
    // The flag that sets maker.n_each, where the task has facts that belong together; NULL.
    const char *each, *each_text;
    uint32_t n_each; // its default
    bool by_head;    // what is told is not how answers are but what attention's heads missed
    // Makes all facts and questions of a text, of each at least one.
    int (*make)(struct maker *maker);
    struct judgement (*judge)(struct puzzle *puzzle, const struct question *question);
};

// Questions of one text are no more than these.
enum { NEEDLE_TASKS = 7, NEEDLE_QUESTIONS_MAX = 32 };
extern const struct needle_task needle_tasks[NEEDLE_TASKS];

#endif
