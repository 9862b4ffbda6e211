// What gguf.c builds and gguf_items.c reads: the tables of an open GGUF file.

#ifndef FATHOM_SRC_MODEL_GGUF_FILE_H
#define FATHOM_SRC_MODEL_GGUF_FILE_H

#include "fathom/gguf.h"
#include "src/base/mem.h"

// `entry` comes first: pointers to it and to its record convert both ways.
struct record {
    struct fathom_gguf_entry entry;
    size_t value_at;       // offset in the file of the value, or of an array's first item
    const size_t *strings; // [n_items] offsets in the file, of arrays of strings
};

struct fathom_gguf {
    struct arena arena; // of the tables
    char *path;
    const uint8_t *bytes; // the mapping
    size_t file_bytes;
    uint32_t version;
    size_t n_records;
    struct record *records;
    size_t n_tensors;
    struct fathom_gguf_tensor *tensors;
    // In order of gguf_compare_names. Names are the first members of records and tensors: a name's
    // address is its owner's.
    const struct fathom_gguf_string **sorted_keys;    // [n_records]
    const struct fathom_gguf_string **sorted_tensors; // [n_tensors]
};

// Of a scalar type in the file; 0 for strings and arrays.
size_t gguf_item_bytes(int32_t type);
// For qsort and bsearch over pointers to names.
int gguf_compare_names(const void *a, const void *b);

#endif
