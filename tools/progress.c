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

static void show(const struct progress *progress, double elapsed_ms)
{
    double rate = (double)progress->done / elapsed_ms * 1e3;
    uint64_t rest_s = (uint64_t)((double)(progress->total - progress->done) / rate + 0.5);
    fprintf(stderr, "%sfathom: %s: %llu of %llu %s (%.0f %%), %.1f %s/s, ETA %llu:%02llu%s",
            progress->terminal ? "\r\033[K" : "", progress->label,
            (unsigned long long)progress->done, (unsigned long long)progress->total, progress->unit,
            100.0 * (double)progress->done / (double)progress->total, rate, progress->unit,
            (unsigned long long)(rest_s / 60), (unsigned long long)(rest_s % 60),
            progress->terminal ? "" : "\n");
}

void progress_add(struct progress *progress, uint64_t n)
{
    if (progress == NULL) return;
    progress->done += n;
    if (progress->done > progress->total) progress->total = progress->done;
    if (progress->done == 0) return;
    double now_ms = timer_now_ms();
    double elapsed_ms = now_ms - progress->start_ms;
    double pause_ms = progress->terminal ? TERMINAL_MS : PLAIN_MS;
    if (elapsed_ms < FIRST_MS) return;
    if (progress->shown_ms > 0 && now_ms - progress->shown_ms < pause_ms) return;
    show(progress, elapsed_ms);
    progress->shown_ms = now_ms;
}

void progress_end(struct progress *progress)
{
    if (progress->terminal && progress->shown_ms > 0) fputs("\r\033[K", stderr);
}
