// Facts about number types: names and block sizes.

#ifndef FATHOM_SRC_BASE_DTYPE_H
#define FATHOM_SRC_BASE_DTYPE_H

#include "fathom/types.h"

struct dtype {
    int32_t type;          // enum fathom_type
    const char *name;      // as llama.cpp prints it: "F32", "Q4_K", "BF16"
    uint32_t block_values; // values that share scales; 1 for floats
    uint32_t block_bytes;
};

// NULL for a type Fathom does not know.
const struct dtype *dtype_find(int32_t type);
// Case does not matter: "q8_0". NULL if there is none.
const struct dtype *dtype_find_name(const char *name);
// The table, in order of type; *count entries.
const struct dtype *dtype_all(size_t *count);
// Bytes of a row of n_cols values; the caller knows the type and that n_cols is a multiple of
// block_values.
size_t dtype_row_bytes(int32_t type, size_t n_cols);

#endif
