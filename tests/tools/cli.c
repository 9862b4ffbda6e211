// Processes for tests of the command. Not for concurrent use.

#include "tests/tools/cli.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/check.h"

enum { PATH_BYTES = 512, LINE_BYTES = 4096, BOS = 256 };

const char cli_needle_text[] = "The quick fox sees the moon. A crow finds the lake.\n"
                               "The secret number of amber beacon is 48213. The wind holds the old "
                               "mill while a king visits the garden.\n"
                               "Question: What is the secret number of amber beacon?\n"
                               "Answer: The secret number of amber beacon is ";

static const char *command;
static char model[4096];
static char folder[] = "/tmp/fathom-cli-XXXXXX";
static char *texts[2]; // of the last run: out, err

void cli_open(const char *path)
{
    const char *root = getenv("FATHOM_SOURCE_ROOT");
    command = path;
    snprintf(model, sizeof model, "%s/tools/needle/needle.gguf", root != NULL ? root : ".");
    setenv("M", model, 1);
    if (mkdtemp(folder) == NULL) {
        perror("mkdtemp");
        exit(1);
    }
}

void cli_close(void)
{
    char line[PATH_BYTES];
    snprintf(line, sizeof line, "rm -rf %s", folder);
    if (system(line) != 0) perror(line);
    free(texts[0]);
    free(texts[1]);
}

char *cli_model(void)
{
    return model;
}

const char *cli_path(const char *name)
{
    static char paths[8][PATH_BYTES];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, PATH_BYTES, "%s/%s", folder, name);
    return path;
}

void cli_write_file(const char *path, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

char *cli_read_file(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    size_t n = (size_t)ftell(file);
    rewind(file);
    char *data = malloc(n + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, n, file), n);
    data[n] = '\0';
    fclose(file);
    *bytes = n;
    return data;
}

// `before`: shell commands.
static struct cli run(const char *before, const char *arguments)
{
    char line[LINE_BYTES + 4 * PATH_BYTES];
    // The arguments come last, so that a redirection in them wins.
    snprintf(line, sizeof line, "%s </dev/null >%s 2>%s %s %s", before, cli_path("out"),
             cli_path("err"), command, arguments);
    int status = system(line);
    struct cli cli = {.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status)};
    free(texts[0]);
    free(texts[1]);
    size_t err_bytes;
    texts[0] = cli_read_file(cli_path("out"), &cli.out_bytes);
    texts[1] = cli_read_file(cli_path("err"), &err_bytes);
    cli.out = texts[0];
    cli.err = texts[1];
    return cli;
}

struct cli cli_run(const char *format, ...)
{
    char arguments[LINE_BYTES];
    va_list list;
    va_start(list, format);
    int n = vsnprintf(arguments, sizeof arguments, format, list);
    va_end(list);
    assert_in_range(n, 0, LINE_BYTES - 1);
    return run("", arguments);
}

struct cli cli_run_confined(const char *arguments)
{
    return run("ulimit -v 4194304 &&", arguments); // KiB
}

const char *cli_prompt_file(void)
{
    const char *path = cli_path("prompt.txt");
    cli_write_file(path, cli_needle_text, strlen(cli_needle_text));
    return path;
}

const char *cli_ids_file(void)
{
    const char *path = cli_path("prompt.ids");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "%d", BOS);
    for (size_t i = 0; cli_needle_text[i] != '\0'; i++)
        fprintf(file, "%s%d", i % 16 == 0 ? "\n" : "\t ", (unsigned char)cli_needle_text[i]);
    fclose(file);
    return path;
}

void cli_expect_error(struct cli cli, const char *part)
{
    const char *end = strchr(cli.err, '\n');
    bool good = cli.code == 1 && cli.out_bytes == 0 && strncmp(cli.err, "fathom: ", 8) == 0 &&
                end != NULL && end[1] == '\0' && strstr(cli.err, part) != NULL;
    if (!good)
        fail_msg("exit code %d, %zu bytes out, error \"%s\"; wanted 1, 0 and one line with \"%s\"",
                 cli.code, cli.out_bytes, cli.err, part);
}

void cli_expect_good(struct cli cli)
{
    if (cli.code != 0) fail_msg("exit code %d: %s", cli.code, cli.err);
}

json_t *cli_parse(const char *text)
{
    json_error_t error;
    json_t *json = json_loads(text, 0, &error);
    if (json == NULL) fail_msg("line %d: %s, in: %s", error.line, error.text, text);
    return json;
}

json_t *cli_json(struct cli cli)
{
    cli_expect_good(cli);
    return cli_parse(cli.out);
}

json_int_t cli_integer(const json_t *row, const char *name)
{
    const json_t *value = json_object_get(row, name);
    if (!json_is_integer(value)) fail_msg("no integer \"%s\"", name);
    return json_integer_value(value);
}

const char *cli_text(const json_t *row, const char *name)
{
    const json_t *value = json_object_get(row, name);
    if (!json_is_string(value)) fail_msg("no text \"%s\"", name);
    return json_string_value(value);
}

double cli_real(const json_t *row, const char *name)
{
    const json_t *value = json_object_get(row, name);
    if (!json_is_real(value)) fail_msg("no real \"%s\"", name);
    return json_real_value(value);
}

int cli_start(char *const argv[], int *out_fd)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    int pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        if (freopen(cli_path("err"), "wb", stderr) != NULL) execv(command, argv);
        _exit(127);
    }
    close(ends[1]);
    *out_fd = ends[0];
    return pid;
}
