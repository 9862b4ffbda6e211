// Progress where standard error is no terminal: lines that stay, and a last one.

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/check.h"
#include "tools/progress.h"

// The clock stands still unless a test moves it.
static double now_ms;
double __wrap_timer_now_ms(void);

double __wrap_timer_now_ms(void)
{
    return now_ms;
}

// Standard error goes to a file from here on; ended by end_capture, which gives its text, to be
// freed.
static FILE *captured;
static int kept_fd;

static void begin_capture(void)
{
    captured = tmpfile();
    assert_non_null(captured);
    kept_fd = dup(STDERR_FILENO);
    dup2(fileno(captured), STDERR_FILENO);
}

static char *end_capture(void)
{
    enum { BYTES = 1 << 16 };
    dup2(kept_fd, STDERR_FILENO);
    close(kept_fd);
    char *text = calloc(1, BYTES);
    assert_non_null(text);
    rewind(captured);
    (void)!fread(text, 1, BYTES - 1, captured);
    fclose(captured);
    return text;
}

// Does `done` of 10 units in so many seconds; what it said.
static char *watch(double seconds, uint64_t done)
{
    struct progress progress;
    begin_capture();
    progress_begin(&progress, "work", "units", 10);
    now_ms += seconds * 1e3;
    progress_add(&progress, done - 1);
    progress_add(&progress, 1); // too soon for a line of its own
    progress_end(&progress);
    return end_capture();
}

static void t_last_line(void **state)
{
    (void)state;
    char *text = watch(2, 9);
    assert_non_null(strstr(text, "fathom: work: 8 of 10 units (80 %)"));
    assert_non_null(strstr(text, "\nfathom: work: 9 units in 2.0 s\n"));
    free(text);
    text = watch(0.5, 9);
    assert_string_equal(text, "");
    free(text);
}

// ---- Remaining time -----------------------------------------------------------------------------

enum { TOTAL = 100000, LAP = 25000, CHUNK = 100 };

static double even_ms(uint64_t done)
{
    (void)done;
    return 10;
}

// As attention to all that came before.
static double rising_ms(uint64_t done)
{
    return 1 + 2e-4 * (double)done;
}

// As a cache that seals from some place on, and merges from another.
static double stepping_ms(uint64_t done)
{
    return done < 1500 ? 1 : done < 8700 ? 4 : 7;
}

static double rising_in_laps_ms(uint64_t done)
{
    return rising_ms(done % LAP);
}

// As a machine that has other work too from the third lap on.
static double slower_laps_ms(uint64_t done)
{
    return done < 2 * LAP ? 1 : 3;
}

// Runs work of that cost; every ETA that is said is within `factor` of the truth, or 2 seconds,
// from a share of the time on.
static void check_eta(double (*cost_ms)(uint64_t), uint64_t lap, double from, double factor)
{
    struct progress progress;
    double end_ms = 0;
    uint32_t n_lines = 0;
    for (uint64_t i = 0; i < TOTAL; i++)
        end_ms += cost_ms(i);
    now_ms = 0;
    begin_capture();
    progress_begin(&progress, "work", "units", TOTAL);
    progress_laps(&progress, lap);
    for (uint64_t i = 0; i < TOTAL; i += CHUNK) {
        for (uint64_t j = 0; j < CHUNK; j++)
            now_ms += cost_ms(i + j);
        progress_add(&progress, CHUNK);
        fprintf(stderr, "at %.0f\n", now_ms);
    }
    progress_end(&progress);
    char *text = end_capture();
    for (char *at = strstr(text, ", ETA "); at != NULL; at = strstr(at + 1, ", ETA ")) {
        unsigned minutes, seconds;
        double ms;
        const char *said = at + strlen(", ETA ");
        const bool rough = *said == '~';
        assert_int_equal(sscanf(said + rough, "%u:%u\nat %lf", &minutes, &seconds, &ms), 3);
        const double said_s = minutes * 60.0 + seconds, left_s = (end_ms - ms) * 1e-3;
        n_lines++;
        if (ms < from * end_ms) continue;
        if (said_s > left_s * factor + 2 || said_s < left_s / factor - 2)
            fail_msg("%.0f s of %.0f: ETA %.0f s, not %.0f", ms * 1e-3, end_ms * 1e-3, said_s,
                     left_s);
    }
    assert_true(n_lines > 10);
    free(text);
}

static void t_eta(void **state)
{
    (void)state;
    check_eta(even_ms, 0, 0.0, 1.01);
    check_eta(rising_ms, 0, 0.0, 1.1);
    check_eta(stepping_ms, 0, 0.1, 1.8); // it cannot know of steps to come
    check_eta(rising_in_laps_ms, LAP, 0.0, 1.2);
    check_eta(slower_laps_ms, LAP, 0.38, 1.1); // after the time of a lap before
}

// Nothing is said of the rest while next to nothing is done.
static void t_no_eta(void **state)
{
    struct progress progress;
    (void)state;
    begin_capture();
    progress_begin(&progress, "work", "units", 100);
    now_ms += 4000;
    progress_add(&progress, 1);
    now_ms += 20000;
    progress_add(&progress, 1);
    now_ms += 1e7;
    progress_add(&progress, 1);
    progress_end(&progress);
    char *text = end_capture();
    assert_non_null(strstr(text, "1 of 100 units (1 %), 0.2 units/s\n"));
    assert_non_null(strstr(text, "2 of 100 units (2 %), 0.1 units/s, ETA ~"));
    unsigned hours, minutes, seconds;
    const char *said = strstr(text, "3 of 100 units (3 %), 0.0 units/s, ETA ~");
    assert_non_null(said);
    said = strchr(said, '~');
    assert_int_equal(sscanf(said, "~%u:%2u:%2u\n", &hours, &minutes, &seconds), 3);
    assert_in_range(hours, 1, 1000);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t_last_line),
        cmocka_unit_test(t_eta),
        cmocka_unit_test(t_no_eta),
    };
    return check_run("progress", tests, sizeof tests / sizeof tests[0]);
}
