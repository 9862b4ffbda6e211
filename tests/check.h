// What every test executable shares: CMocka, counting, skipping, and where the reference data lies.
//
// One executable is one CMocka group. It ends with a line "check: GROUP: N passed, N failed,
// N skipped", which tools/check sums up, and exits with 77 when the whole group was skipped.

#ifndef FATHOM_TESTS_CHECK_H
#define FATHOM_TESTS_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fathom/types.h"

// Tests of CUDA code are C++; CMocka does not know it.
#ifdef __cplusplus
extern "C" {
#endif
#include <cmocka.h>
#ifdef __cplusplus
}
#endif

// One for all sources of an executable.
__attribute__((weak)) size_t check_n_skipped;

// Ends the running test as skipped and says why.
#define check_skip(...)                                                                            \
    do {                                                                                           \
        printf("skipped: " __VA_ARGS__);                                                           \
        printf("\n");                                                                              \
        check_n_skipped++;                                                                         \
        skip();                                                                                    \
    } while (0)

// Fails, with the library's text, unless the call succeeded.
#define check_ok(expr)                                                                             \
    do {                                                                                           \
        fathom_status status_of_check = (expr);                                                    \
        if (status_of_check != FATHOM_OK)                                                          \
            fail_msg("%s: %s: %s", #expr, fathom_status_name(status_of_check),                     \
                     fathom_last_error());                                                         \
    } while (0)

// Fails unless a call ended with `wanted` and the library's text has `word`.
static inline void check_error(fathom_status got, fathom_status wanted, const char *word)
{
    if (got != wanted || strstr(fathom_last_error(), word) == NULL)
        fail_msg("%s: %s: not %s with \"%s\"", fathom_status_name(got), fathom_last_error(),
                 fathom_status_name(wanted), word);
}

// Sanitizers make some tests so slow that a part of their cases must do: $FATHOM_TEST_FEW.
static inline bool check_few(void)
{
    return getenv("FATHOM_TEST_FEW") != NULL;
}

// Runs a group whose array may be built at run time; the result is main's.
static inline int check_run(const char *group, const struct CMUnitTest *tests, size_t n_tests)
{
    int n_failed = _cmocka_run_group_tests(group, tests, n_tests, NULL, NULL);
    size_t failed = n_failed < 0 ? n_tests : (size_t)n_failed;
    size_t skipped = check_n_skipped < n_tests ? check_n_skipped : n_tests;
    printf("check: %s: %zu passed, %zu failed, %zu skipped\n", group, n_tests - failed - skipped,
           failed, skipped);
    if (failed > 0) return 1;
    return skipped == n_tests ? 77 : 0;
}

// Path of a file of the reference data: $FATHOM_TEST_DATA, or ../shared/data beside the checkout.
// Skips the test when it is not there. Ring of four buffers.
static inline const char *check_data(const char *name)
{
    static char paths[4][4096];
    static unsigned next;
    char *path = paths[next++ % 4];
    const char *folder = getenv("FATHOM_TEST_DATA");
    const char *root = getenv("FATHOM_SOURCE_ROOT");
    struct stat info;
    if (folder != NULL)
        snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    else
        snprintf(path, sizeof paths[0], "%s/../shared/data/%s", root != NULL ? root : ".", name);
    if (stat(path, &info) != 0) check_skip("no reference data: %s", path);
    return path;
}

#endif
