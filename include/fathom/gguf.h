// Reading GGUF files (versions 2 and 3): metadata and a table of tensors, checked like hostile
// input.
//
// The file stays mapped until close; names and data point into it. Read-only: any number of
// threads.

#ifndef FATHOM_GGUF_H
#define FATHOM_GGUF_H

#include "fathom/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fathom_gguf fathom_gguf;

// Types of metadata values, numbered as in the format.
enum fathom_gguf_type {
    FATHOM_GGUF_UINT8 = 0,
    FATHOM_GGUF_INT8 = 1,
    FATHOM_GGUF_UINT16 = 2,
    FATHOM_GGUF_INT16 = 3,
    FATHOM_GGUF_UINT32 = 4,
    FATHOM_GGUF_INT32 = 5,
    FATHOM_GGUF_FLOAT32 = 6,
    FATHOM_GGUF_BOOL = 7,
    FATHOM_GGUF_STRING = 8,
    FATHOM_GGUF_ARRAY = 9,
    FATHOM_GGUF_UINT64 = 10,
    FATHOM_GGUF_INT64 = 11,
    FATHOM_GGUF_FLOAT64 = 12,
};

// A string inside the file: not zero-terminated, not necessarily UTF-8.
struct fathom_gguf_string {
    const char *text;
    size_t bytes;
};

// One metadata entry. For arrays, `type` is ARRAY, `item_type` and `n_items` describe it. Keys and
// tensor names have no control characters and occur once.
struct fathom_gguf_entry {
    struct fathom_gguf_string key;
    int32_t type;      // enum fathom_gguf_type
    int32_t item_type; // of arrays, ARRAY if they are nested (then no item can be read); else type
    uint64_t n_items;  // of arrays; 1 otherwise
};

struct fathom_gguf_tensor {
    struct fathom_gguf_string name;
    int32_t type;     // as in the file: may be one that enum fathom_type lacks
    uint32_t n_dims;  // 1 .. 4
    uint64_t dims[4]; // dims[0] runs fastest (GGUF's ne0); above 0; 1 beyond n_dims
    uint64_t bytes;   // 0 if the type is unknown
    const void *data; // inside the mapping; NULL if the type is unknown
};

// Opens and checks the whole header. ECORRUPT names the file, the field and the offset; EIO the
// file and the system's reason; EUNSUPPORTED another version than 2 and 3, or big-endian files. All
// tables together take no more memory than the file has bytes, plus 1 MiB. general.alignment must
// be a power of two, 8 or more; tensor data must be aligned to it, inside the file, and in the
// order of the table without overlaps.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_gguf_open(const char *path, fathom_gguf **gguf);
FATHOM_API void fathom_gguf_close(fathom_gguf **gguf);

FATHOM_API const char *fathom_gguf_path(const fathom_gguf *gguf);
FATHOM_API uint64_t fathom_gguf_file_bytes(const fathom_gguf *gguf);
FATHOM_API uint32_t fathom_gguf_version(const fathom_gguf *gguf); // 2 or 3

FATHOM_API size_t fathom_gguf_entry_count(const fathom_gguf *gguf);
FATHOM_API const struct fathom_gguf_entry *fathom_gguf_entry_at(const fathom_gguf *gguf, size_t i);
// NULL if there is none of that name (zero-terminated).
FATHOM_API const struct fathom_gguf_entry *fathom_gguf_find(const fathom_gguf *gguf,
                                                            const char *key);

// The item of an entry (index 0 for scalars), converted without loss; EINVAL if the index is out of
// range, the type cannot hold the value, or the entry is NULL (as of a key that was not found).
// as_int takes any integer type and bool, as_float any number.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_gguf_as_int(const fathom_gguf *gguf,
                                                            const struct fathom_gguf_entry *entry,
                                                            uint64_t index, int64_t *out);
FATHOM_API FATHOM_MUST_USE fathom_status fathom_gguf_as_float(const fathom_gguf *gguf,
                                                              const struct fathom_gguf_entry *entry,
                                                              uint64_t index, double *out);
// Constant time for any index.
FATHOM_API FATHOM_MUST_USE fathom_status
fathom_gguf_as_string(const fathom_gguf *gguf, const struct fathom_gguf_entry *entry,
                      uint64_t index, struct fathom_gguf_string *out);

FATHOM_API size_t fathom_gguf_tensor_count(const fathom_gguf *gguf);
FATHOM_API const struct fathom_gguf_tensor *fathom_gguf_tensor_at(const fathom_gguf *gguf,
                                                                  size_t i);
FATHOM_API const struct fathom_gguf_tensor *fathom_gguf_tensor_find(const fathom_gguf *gguf,
                                                                    const char *name);

#ifdef __cplusplus
}
#endif

#endif
