// Planted bugs, each in all modes of the emulation: those modes which must catch it do, and for the
// right reason; its clean twin passes in all. Each runs in a process of its own, because to be
// caught is to be aborted. Prints which modes caught what.

#include "tests/check.h"

#include <sys/wait.h>
#include <unistd.h>

#include "tests/emu/bugs.h"
#include "tests/emu/emu.h"
#include "tests/emu/emu_sanitizer.h"

enum { SAID_MAX = 64 * 1024, BUGS_MAX = 100 };

enum outcome { PASSED, WRONG, DIED };

static bool with_tsan(void)
{
    return __tsan_create_fiber != NULL;
}

static bool with_asan(void)
{
    return __asan_poison_memory_region != NULL;
}

// What a sanitizer that is not here would say.
static bool needs_asan(const struct bug *bug)
{
    static const char *const words[] = {"poison", "overflow", "out of bounds", "misaligned"};
    for (size_t i = 0; bug->says != NULL && i < sizeof words / sizeof words[0]; i++)
        if (strstr(bug->says, words[i]) != NULL) return true;
    return false;
}

static void run_child(const struct bug *bug, const struct emu_mode *mode, bool is_planted,
                      FILE *said)
{
    dup2(fileno(said), STDERR_FILENO);
    setenv("CMOCKA_TEST_ABORT", "1", 1); // else a failure here would go on with the next test
    emu_begin(mode);
    bool is_right = bug->run(bug, is_planted);
    if (!is_right) fprintf(stderr, "wrong result\n");
    exit(is_right ? 0 : 1); // ThreadSanitizer has its say, too
}

// Runs the bug or its twin; `text` gets what it said.
static enum outcome run_one(const struct bug *bug, const struct emu_mode *mode, bool is_planted,
                            char text[SAID_MAX])
{
    FILE *said = tmpfile();
    int status = 0;
    assert_non_null(said);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) run_child(bug, mode, is_planted, said);
    assert_int_equal(waitpid(child, &status, 0), child);
    rewind(said);
    text[fread(text, 1, SAID_MAX - 1, said)] = '\0';
    fclose(said);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return PASSED;
    return strstr(text, "wrong result") != NULL ? WRONG : DIED;
}

static bool is_reason(const struct bug *bug, const char *text)
{
    if (bug->says != NULL) return strstr(text, bug->says) != NULL;
    return strstr(text, "wrong result") != NULL || strstr(text, "depends on the order") != NULL;
}

// Returns how it was caught, as a letter; `is_race`: by ThreadSanitizer.
static char check_mode(const struct bug *bug, size_t i, bool *is_race)
{
    static char text[SAID_MAX];
    const struct emu_mode *mode = &emu_modes[i];
    if (run_one(bug, mode, false, text) != PASSED)
        fail_msg("%s: its clean twin fails in mode %s: %s", bug->name, mode->name, text);
    const enum outcome outcome = run_one(bug, mode, true, text);
    *is_race = strstr(text, "data race") != NULL;
    if (!with_tsan() && (bug->caught & 1u << i) != 0) {
        if (outcome == PASSED) fail_msg("%s: not caught in mode %s", bug->name, mode->name);
        if (!is_reason(bug, text))
            fail_msg("%s: in mode %s caught for another reason than \"%s\": %s", bug->name,
                     mode->name, bug->says != NULL ? bug->says : "wrong result", text);
    }
    return *is_race ? 'r' : ".wx"[outcome];
}

static void test_bug(void **state)
{
    const struct bug *bug = *state;
    char letters[16] = "";
    bool any_race = false;
    if (needs_asan(bug) && !with_asan()) check_skip("%s: without AddressSanitizer", bug->name);
    assert_true(emu_n_modes < sizeof letters);
    for (size_t i = 0; i < emu_n_modes; i++) {
        bool is_race = false;
        // Saved and restored memory would look to ThreadSanitizer like a race.
        const bool may_run = !with_tsan() || !emu_modes[i].swap;
        letters[i] = may_run ? check_mode(bug, i, &is_race) : ' ';
        any_race = any_race || is_race;
    }
    if (with_tsan() && (bug->caught & TSAN) != 0 && !any_race)
        fail_msg("%s: not caught by ThreadSanitizer", bug->name);
    printf("%-28s %s\n", bug->name, letters);
}

static void add_tests(struct CMUnitTest *tests, size_t *n, const struct bug *bugs, size_t n_bugs)
{
    for (size_t i = 0; i < n_bugs && *n < BUGS_MAX; i++)
        tests[(*n)++] =
            (struct CMUnitTest){bugs[i].name, test_bug, NULL, NULL, (void *)(size_t)&bugs[i]};
}

int main(void)
{
    static struct CMUnitTest tests[BUGS_MAX];
    size_t n = 0;
    printf("x: caught as an error; w: by a wrong result; r: as a race; .: not caught. Modes:");
    for (size_t i = 0; i < emu_n_modes; i++)
        printf(" %s%s", emu_modes[i].name, i + 1 < emu_n_modes ? ";" : "\n");
    add_tests(tests, &n, kernel_bugs, n_kernel_bugs);
    add_tests(tests, &n, warp_bugs, n_warp_bugs);
    add_tests(tests, &n, host_bugs, n_host_bugs);
    return check_run("t_emu_bugs", tests, n);
}
