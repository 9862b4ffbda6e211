// Progress where standard error is no terminal: lines that stay, and a last one.

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/check.h"
#include "tools/progress.h"

// Does `done` of 10 units in what looks like seconds; what it said on standard error, to be freed.
static char *watch(double seconds, uint64_t done)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    int kept = dup(STDERR_FILENO);
    dup2(fileno(file), STDERR_FILENO);
    struct progress progress;
    progress_begin(&progress, "work", "units", 10);
    progress.start_ms -= seconds * 1e3;
    progress_add(&progress, done - 1);
    progress_add(&progress, 1); // too soon for a line of its own
    progress_end(&progress);
    dup2(kept, STDERR_FILENO);
    close(kept);
    char *text = calloc(1, 1024);
    assert_non_null(text);
    rewind(file);
    (void)!fread(text, 1, 1023, file);
    fclose(file);
    return text;
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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(t_last_line)};
    return check_run("progress", tests, sizeof tests / sizeof tests[0]);
}
