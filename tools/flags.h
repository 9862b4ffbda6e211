// Command-line flags as tables: the same table parses, sets the options and prints --help.

#ifndef FATHOM_TOOLS_FLAGS_H
#define FATHOM_TOOLS_FLAGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// What a flag takes, and the type of the member it sets.
enum flag_kind {
    FLAG_ON,     // bool: sets true
    FLAG_OFF,    // bool: sets false
    FLAG_ASK,    // int (*)(void): is called, and what it returns ends the parsing
    FLAG_TEXT,   // const char *
    FLAG_TEXTS,  // struct flag_texts: one more each time
    FLAG_COUNT,  // uint32_t; K, M, G, T mean 2^10, 2^20, 2^30, 2^40
    FLAG_SIZE,   // uint64_t, likewise
    FLAG_INT,    // int64_t
    FLAG_FLOAT,  // float
    FLAG_COUNTS, // struct flag_counts: counts separated by commas, in place of the default
};

enum { FLAG_LIST_MAX = 32 };

struct flag_texts {
    const char *items[FLAG_LIST_MAX];
    uint32_t n;
};

struct flag_counts {
    uint32_t items[FLAG_LIST_MAX];
    uint32_t n;
};

struct flag {
    const char *names; // "-n, --n-predict"
    enum flag_kind kind;
    size_t offset;     // of the member in the group's options
    const char *value; // what help calls the value; NULL for ON, OFF, ASK. "0..1" and
                       // "md|json" bind: one number in this range, one of these words
    const char *text;  // what it does; help adds the default, which is the member's value
};

// Flags that set members of one struct of options, which holds the defaults beforehand.
struct flag_group {
    const char *title;
    const struct flag *flags;
    size_t n_flags;
    void *options;
};

// One command's help page.
struct flag_page {
    const char *command; // "run"
    const char *use;     // "-m FILE [-p TEXT] ..."
    const char *about;   // paragraphs between use and flags
    const struct flag_group *groups;
    size_t n_groups;
};

// The first of names, "-c, --ctx-size", that argv[1..] holds as a flag; NULL: none of them.
const char *flags_given(const struct flag_page *page, int argc, char **argv, const char *names);

// A number with K, M, G or T (2^10, 2^20, 2^30, 2^40) behind it, or none. False, with nothing set,
// if the text is no such number.
bool flags_parse_size(const char *text, uint64_t *out);

// Sets the options from argv[1..]. *operand takes the one argument that is no flag and must hold
// NULL before; operand itself NULL: there must be none. EXIT_HELPED after printing the page.
int flags_parse(const struct flag_page *page, int argc, char **argv, const char **operand);

#endif
