// Merging neighbouring symbols, best pair first: what both kinds of tokenizer do within a word.

#ifndef FATHOM_SRC_MODEL_MERGE_H
#define FATHOM_SRC_MODEL_MERGE_H

#include "fathom/types.h"

// A run of bytes of the word. Symbols form a list in the order of the text.
struct merge_symbol {
    uint32_t begin; // in the word
    uint32_t bytes; // 0: merged into the symbol before it
    int32_t id;     // its token, -1: none
    uint32_t next;  // n_symbols: none
    uint32_t prev;  // n_symbols: none
};

// What two neighbours would become.
struct merge_pair {
    uint32_t rank; // the smallest of all pairs goes first, the leftmost of equals
    int32_t id;
};

// Whether the neighbours merge, and to what. text: the word.
typedef bool (*merge_find_fn)(const void *rules, const char *text, const struct merge_symbol *left,
                              const struct merge_symbol *right, struct merge_pair *pair);

// Working memory, kept from word to word. Start from zero; merge_fini frees it.
struct merger {
    const void *rules;
    merge_find_fn find;
    struct merge_symbol *symbols; // [n_symbols]
    size_t n_symbols;
    size_t n_symbols_max;
    struct merge_entry *heap; // [n_entries]
    size_t n_entries;
    size_t n_entries_max;
};

void merge_fini(struct merger *merger);
// Drops the symbols of the last word.
void merge_clear(struct merger *merger);
// Appends a symbol: the next `bytes` of the word.
FATHOM_MUST_USE fathom_status merge_append(struct merger *merger, uint32_t bytes, int32_t id);
// Merges until no rule applies. What remains is the list from symbols[0] along next.
// O(n_symbols log n_symbols).
FATHOM_MUST_USE fathom_status merge_run(struct merger *merger, const char *text);

#endif
