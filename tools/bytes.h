// A growing run of bytes: prompts, replies, whole files.

#ifndef FATHOM_TOOLS_BYTES_H
#define FATHOM_TOOLS_BYTES_H

#include <stddef.h>

// Zeroed is empty. data[n] is '\0' whenever data is not NULL.
struct bytes {
    char *data;
    size_t n;
    size_t capacity;
};

// Room for n_more bytes and a terminator behind the present end.
int bytes_reserve(struct bytes *bytes, size_t n_more);

int bytes_append(struct bytes *bytes, const char *data, size_t n);

// Appends a whole file, byte for byte; "-" is standard input.
int bytes_append_file(struct bytes *bytes, const char *path);

// Appends a text in which \n \t \r \\ \" \' \0 and \xHH stand for what they stand for in C; any
// other backslash stays.
int bytes_append_escaped(struct bytes *bytes, const char *text);

void bytes_free(struct bytes *bytes);

#endif
