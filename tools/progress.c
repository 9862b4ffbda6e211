// Progress lines. They go to standard error alone, so results can be piped.

#include "tools/progress.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tools/timer.h"

#define FIRST_MS    1000.0  // shorter work shows nothing
#define TERMINAL_MS 200.0   // between two updates of the line on a terminal
#define PLAIN_MS    10000.0 // between two lines elsewhere
// Before either is done, nothing is said of the rest; and until a quarter is, it is a guess.
#define ETA_MS     5000.0
#define ETA_SHARE  0.05
#define FIRM_SHARE 0.25

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

void progress_laps(struct progress *progress, uint64_t lap)
{
    progress->lap = lap;
}

static uint64_t units_of_lap(const struct progress *progress)
{
    return progress->lap > 0 ? progress->lap : progress->total;
}

// Milliseconds a unit from a mark to a later one, and where in the work that is about.
struct pace {
    double unit_ms;
    double at;
};

static struct pace pace_between(const struct progress_mark *a, const struct progress_mark *b)
{
    double n = (double)(b->done - a->done);
    return (struct pace){n > 0 ? (b->ms - a->ms) / n : 0, ((double)a->done + (double)b->done) / 2};
}

// By how much a unit costs more than the one before it. In attention it does, evenly; other work
// becomes dearer at once, where sealing begins, say, and then no more. Of two rises in a row the
// smaller one is what goes on.
static double find_growth(const struct pace *first, const struct pace *middle,
                          const struct pace *last)
{
    double early = (middle->unit_ms - first->unit_ms) / (middle->at - first->at);
    double late = (last->unit_ms - middle->unit_ms) / (last->at - middle->at);
    double growth = early < late ? early : late;
    return growth > 0 ? growth : 0;
}

// Of the first lap, from now on to its end.
static double estimate_lap_ms(const struct progress *progress, const struct progress_mark *now)
{
    const struct progress_mark *marks = progress->marks;
    const double n = (double)now->done, end = (double)units_of_lap(progress);
    const struct pace last = pace_between(&marks[2], now);
    double growth = 0;
    if (marks[0].done > 0) {
        const struct pace first = pace_between(&marks[0], &marks[1]);
        const struct pace middle = pace_between(&marks[1], &marks[2]);
        growth = find_growth(&first, &middle, &last);
    }
    return (end - n) * (last.unit_ms + growth * ((end + n) / 2 - last.at));
}

static double estimate_rest_ms(const struct progress *progress, double elapsed_ms)
{
    const struct progress_mark now = {progress->done, elapsed_ms};
    const double lap = (double)units_of_lap(progress);
    const double n_laps = ((double)progress->total - (double)progress->lap_begin.done - lap) / lap;
    if (progress->lap_ms > 0) {
        // This lap takes as long as the one before; when that time is over, it has a pace itself.
        const double in_lap_ms = elapsed_ms - progress->lap_begin.ms;
        const double lap_share = (double)(now.done - progress->lap_begin.done) / lap;
        double lap_ms = progress->lap_ms;
        if (in_lap_ms > lap_ms && lap_share > 0) lap_ms = in_lap_ms / lap_share;
        return fmax(lap_ms - in_lap_ms, (1 - lap_share) * lap_ms) + n_laps * lap_ms;
    }
    const double left_ms = estimate_lap_ms(progress, &now);
    return left_ms + n_laps * (elapsed_ms + left_ms);
}

static void show(const struct progress *progress, double elapsed_ms)
{
    const double share = (double)progress->done / (double)progress->total;
    double rate = (double)progress->done / elapsed_ms * 1e3;
    char eta[48] = "";
    if (share >= ETA_SHARE || elapsed_ms >= ETA_MS) {
        const uint64_t s = (uint64_t)(estimate_rest_ms(progress, elapsed_ms) / 1e3 + 0.5);
        const unsigned long long hours = s / 3600;
        const unsigned minutes = (unsigned)(s / 60 % 60), seconds = (unsigned)(s % 60);
        const char *about = share < FIRM_SHARE ? "~" : "";
        if (hours > 0)
            snprintf(eta, sizeof eta, ", ETA %s%llu:%02u:%02u", about, hours, minutes, seconds);
        else
            snprintf(eta, sizeof eta, ", ETA %s%u:%02u", about, minutes, seconds);
    }
    fprintf(stderr, "%sfathom: %s: %llu of %llu %s (%.0f %%), %.1f %s/s%s%s",
            progress->terminal ? "\r\033[K" : "", progress->label,
            (unsigned long long)progress->done, (unsigned long long)progress->total, progress->unit,
            100.0 * share, rate, progress->unit, eta, progress->terminal ? "" : "\n");
}

static void move_marks(struct progress *progress, double elapsed_ms)
{
    const struct progress_mark now = {progress->done, elapsed_ms};
    struct progress_mark *marks = progress->marks;
    if (now.done >= 2 * marks[PROGRESS_MARKS - 1].done) {
        memmove(marks, marks + 1, (PROGRESS_MARKS - 1) * sizeof *marks);
        marks[PROGRESS_MARKS - 1] = now;
    }
    if (now.done >= progress->lap_begin.done + units_of_lap(progress)) {
        progress->lap_ms = elapsed_ms - progress->lap_begin.ms;
        progress->lap_begin = now;
    }
}

void progress_add(struct progress *progress, uint64_t n)
{
    if (progress == NULL) return;
    progress->done += n;
    if (progress->done > progress->total) progress->total = progress->done;
    if (progress->done == 0) return;
    double now_ms = timer_now_ms();
    double elapsed_ms = now_ms - progress->start_ms;
    move_marks(progress, elapsed_ms);
    double pause_ms = progress->terminal ? TERMINAL_MS : PLAIN_MS;
    if (elapsed_ms < FIRST_MS) return;
    if (progress->shown_ms > 0 && now_ms - progress->shown_ms < pause_ms) return;
    show(progress, elapsed_ms);
    progress->shown_ms = now_ms;
}

void progress_hide(const struct progress *progress)
{
    if (progress->terminal && progress->shown_ms > 0) fputs("\r\033[K", stderr);
}

void progress_end(struct progress *progress)
{
    if (progress->shown_ms == 0) return;
    double s = (timer_now_ms() - progress->start_ms) / 1e3;
    // The line vanishes from a terminal; a log keeps how it ended.
    if (progress->terminal)
        progress_hide(progress);
    else
        fprintf(stderr, "fathom: %s: %llu %s in %.1f s\n", progress->label,
                (unsigned long long)progress->done, progress->unit, s);
}
