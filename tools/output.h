// Standard output: streamed text in whole UTF-8 characters, and the check that it arrived.

#ifndef FATHOM_TOOLS_OUTPUT_H
#define FATHOM_TOOLS_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>

// Holds back the beginning of a character whose end has not come. Zeroed is empty.
struct output {
    char pending[4];
    size_t n_pending;
    char last;        // last byte written, '\0' before the first
    bool whole_lines; // leaves at the end of a line: another's may come between
};

// Writes text and flushes (with whole_lines: at the end of a line), less an unfinished character at
// its end.
int output_write(struct output *output, const char *text, size_t bytes);

// Writes what is held back, as it is; with end_line also a newline, unless the text ended in one.
int output_end(struct output *output, bool end_line);

// Flushes standard output. Says so if anything written to it was lost (a full disk). A reader that
// went away ends the process by SIGPIPE, as it ends `cat`.
int output_check(void);

// Says so if a file that is to hold a result cannot be written, before the work that leads to it.
// Leaves everything as it is. path NULL or "-": there is none.
int output_try_file(const char *path);

// Removes the file that path leads to, through links, if it is an ordinary one.
void output_remove(const char *path);

// Says so if the file that is to hold a result is the one that it is made from. Either may be NULL.
int output_check_other(const char *path, const char *source);

#endif
