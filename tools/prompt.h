// The text that a command works on: -f, then -p.

#ifndef FATHOM_TOOLS_PROMPT_H
#define FATHOM_TOOLS_PROMPT_H

#include <stdbool.h>

#include "tools/bytes.h"
#include "tools/flags.h"

struct prompt_options {
    const char *text; // NULL: not given; likewise file
    const char *file;
    bool escapes;
    bool no_bos;
    bool parse_special;
};

struct flag_group prompt_flags(struct prompt_options *options);

// Appends the file's bytes as they are, then the text.
int prompt_read(const struct prompt_options *options, struct bytes *prompt);

// The flags for fathom_tokenize.
uint32_t prompt_tokenize_flags(const struct prompt_options *options);

#endif
