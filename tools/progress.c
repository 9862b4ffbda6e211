// Progress lines. They go to standard error alone, so results can be piped.

#include "tools/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "tools/timer.h"

#define FIRST_MS    1000.0  // shorter work shows nothing
#define TERMINAL_MS 200.0   // between two updates of the line on a terminal
#define PLAIN_MS    10000.0 // between two lines elsewhere

void progress_begin(struct progress *progress, const char *label, const char *unit, uint64_t total)
{
    *progress = (struct progress){
        .label = label,
        .unit = unit,
        .total = total,
        .start_ms = timer_now_ms(),
        .terminal = isatty(STDERR_FILENO) != 0,
    };
}

// Milliseconds that the rest will take. In attention a unit costs the more the more there are
// before it, so the time of n units is taken as a n + b n^2, through now and an earlier mark.
static double estimate_rest_ms(const struct progress *progress, double elapsed_ms)
{
    double n = (double)progress->done, total = (double)progress->total;
    double mark = (double)progress->mark;
    double growth = 0;
    if (mark > 0 && mark < n) growth = (elapsed_ms / n - progress->mark_ms / mark) / (n - mark);
    if (growth < 0) growth = 0;
    double first = elapsed_ms / n - growth * n;
    return (total - n) * (first + growth * (total + n));
}

static void show(const struct progress *progress, double elapsed_ms)
{
    double rate = (double)progress->done / elapsed_ms * 1e3;
    uint64_t rest_s = (uint64_t)(estimate_rest_ms(progress, elapsed_ms) / 1e3 + 0.5);
    fprintf(stderr, "%sfathom: %s: %llu of %llu %s (%.0f %%), %.1f %s/s, ETA %llu:%02llu%s",
            progress->terminal ? "\r\033[K" : "", progress->label,
            (unsigned long long)progress->done, (unsigned long long)progress->total, progress->unit,
            100.0 * (double)progress->done / (double)progress->total, rate, progress->unit,
            (unsigned long long)(rest_s / 60), (unsigned long long)(rest_s % 60),
            progress->terminal ? "" : "\n");
}

// Keeps a mark that lies well before now: half of what was done when it was last moved on.
static void move_mark(struct progress *progress, double elapsed_ms)
{
    if (progress->done < 2 * progress->next_mark) return;
    progress->mark = progress->next_mark;
    progress->mark_ms = progress->next_mark_ms;
    progress->next_mark = progress->done;
    progress->next_mark_ms = elapsed_ms;
}

void progress_add(struct progress *progress, uint64_t n)
{
    if (progress == NULL) return;
    progress->done += n;
    if (progress->done > progress->total) progress->total = progress->done;
    if (progress->done == 0) return;
    double now_ms = timer_now_ms();
    double elapsed_ms = now_ms - progress->start_ms;
    move_mark(progress, elapsed_ms);
    double pause_ms = progress->terminal ? TERMINAL_MS : PLAIN_MS;
    if (elapsed_ms < FIRST_MS) return;
    if (progress->shown_ms > 0 && now_ms - progress->shown_ms < pause_ms) return;
    show(progress, elapsed_ms);
    progress->shown_ms = now_ms;
}

void progress_end(struct progress *progress)
{
    if (progress->shown_ms == 0) return;
    double s = (timer_now_ms() - progress->start_ms) / 1e3;
    // The line vanishes from a terminal; a log keeps how it ended.
    if (progress->terminal)
        fputs("\r\033[K", stderr);
    else
        fprintf(stderr, "fathom: %s: %llu %s in %.1f s\n", progress->label,
                (unsigned long long)progress->done, progress->unit, s);
}
