// Running the fathom command from tests: a scratch folder, arguments as a shell line, outputs as
// text.

#ifndef FATHOM_TESTS_TOOLS_CLI_H
#define FATHOM_TESTS_TOOLS_CLI_H

#include <jansson.h>
#include <stddef.h>

// Result of a run. The texts are zero-terminated behind their bytes and live until the next run.
struct cli {
    int code; // exit code; 128 + signal if a signal ended it
    const char *out;
    size_t out_bytes;
    const char *err;
};

// A text that hides 48213, the secret number of "amber beacon", and ends in the question for it.
extern const char cli_needle_text[];

// Takes the path of the command under test and makes a folder, which cli_close removes with all in
// it. Shell lines find the needle model in $M.
void cli_open(const char *command);
void cli_close(void);

// Path of the needle model.
char *cli_model(void);

// A path in the scratch folder. Ring of eight buffers.
const char *cli_path(const char *name);

void cli_write_file(const char *path, const void *data, size_t bytes);
// A file's bytes, zero-terminated behind them; to be freed.
char *cli_read_file(const char *path, size_t *bytes);

// Runs the command with arguments as the shell splits them; the line may redirect.
struct cli cli_run(const char *format, ...) __attribute__((format(printf, 1, 2)));

// The same with 4 GiB of address space.
struct cli cli_run_confined(const char *arguments);

// The needle text in a file, and its ids in a file: BOS and the bytes, which are the model's
// tokens.
const char *cli_prompt_file(void);
const char *cli_ids_file(void);

// Fails unless the run ended with 1, printed nothing, and said one line that contains `part`.
void cli_expect_error(struct cli cli, const char *part);
// Fails, with what the run said, unless it ended with 0.
void cli_expect_good(struct cli cli);
// A text as JSON; fails if it is none.
json_t *cli_parse(const char *text);
// The standard output of a run that cli_expect_good is content with, as JSON.
json_t *cli_json(struct cli cli);

// Members of an object; each fails if there is none of that type.
json_int_t cli_integer(const json_t *row, const char *name);
const char *cli_text(const json_t *row, const char *name);
double cli_real(const json_t *row, const char *name);

// Starts the command with a pipe from its standard output; errors go to cli_path("err").
int cli_start(char *const argv[], int *out_fd);

#endif
