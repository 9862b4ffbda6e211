// Streamed text: what stands on standard output after each piece, character by character.

#include <string.h>
#include <unistd.h>

#include "tests/check.h"
#include "tools/output.h"

static int saved_fd; // the test's own standard output
static int pipe_fd;  // where pieces arrive

static int redirect(void **state)
{
    (void)state;
    int ends[2];
    fflush(stdout);
    saved_fd = dup(STDOUT_FILENO);
    if (saved_fd < 0 || pipe(ends) != 0) return -1;
    dup2(ends[1], STDOUT_FILENO);
    close(ends[1]);
    pipe_fd = ends[0];
    return 0;
}

static int restore(void **state)
{
    (void)state;
    fflush(stdout);
    dup2(saved_fd, STDOUT_FILENO);
    close(saved_fd);
    close(pipe_fd);
    return 0;
}

// What has arrived since the last call. A mark at the end keeps the read from waiting.
static const char *arrived(void)
{
    static char text[64];
    ssize_t n = write(STDOUT_FILENO, "$", 1) == 1 ? read(pipe_fd, text, sizeof text - 1) : 0;
    text[n > 0 ? n - 1 : 0] = '\0';
    return text;
}

static void feed(struct output *output, const char *text, const char *wanted)
{
    assert_int_equal(output_write(output, text, strlen(text)), 0);
    assert_string_equal(arrived(), wanted);
}

static void t_whole_characters(void **state)
{
    (void)state;
    struct output output = {0};
    feed(&output, "plain", "plain");
    feed(&output, "a\xc3", "a");
    feed(&output, "\xa9 b", "\xc3\xa9 b");
    feed(&output, "\xe2", "");
    feed(&output, "\x82", "");
    feed(&output, "\xac", "\xe2\x82\xac");
    feed(&output, "\xf0\x9f", "");
    feed(&output, "\x98\x80\xf0\x9f\x98", "\xf0\x9f\x98\x80");
    feed(&output, "\x81x", "\xf0\x9f\x98\x81x");
    assert_int_equal(output_end(&output, true), 0);
    assert_string_equal(arrived(), "\n");
}

static void t_what_is_no_utf8(void **state)
{
    (void)state;
    struct output output = {0};
    feed(&output, "\x80\xff", "\x80\xff");
    feed(&output, "\xe2\x82", "");
    feed(&output, "x", "\xe2\x82x"); // the character never ended
    feed(&output, "\xf0\x9f", "");
    feed(&output, "\xc3", "\xf0\x9f");
    feed(&output, "\xa9\xa9", "\xc3\xa9\xa9");
    feed(&output, "\xe2\x82", "");
    assert_int_equal(output_end(&output, false), 0);
    assert_string_equal(arrived(), "\xe2\x82");
}

static void t_line_end(void **state)
{
    (void)state;
    struct output output = {0};
    assert_int_equal(output_end(&output, true), 0);
    assert_string_equal(arrived(), "\n");
    feed(&output, "line\n", "line\n");
    assert_int_equal(output_end(&output, true), 0);
    assert_string_equal(arrived(), "");
}

// Where lines of others come between.
static void t_whole_lines(void **state)
{
    (void)state;
    struct output output = {.whole_lines = true};
    feed(&output, "a piece", "");
    feed(&output, ", more\nand", "");
    feed(&output, " all\n", "a piece, more\nand all\n");
    feed(&output, "rest", "");
    assert_int_equal(output_end(&output, true), 0);
    assert_string_equal(arrived(), "rest\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(t_whole_characters, redirect, restore),
        cmocka_unit_test_setup_teardown(t_what_is_no_utf8, redirect, restore),
        cmocka_unit_test_setup_teardown(t_line_end, redirect, restore),
        cmocka_unit_test_setup_teardown(t_whole_lines, redirect, restore),
    };
    return check_run("output", tests, sizeof tests / sizeof tests[0]);
}
