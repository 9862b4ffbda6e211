// Metadata with the user's overrides on top: the one place where the loader looks keys up.

#ifndef FATHOM_SRC_MODEL_METADATA_H
#define FATHOM_SRC_MODEL_METADATA_H

#include "fathom/gguf.h"

struct metadata;

// overrides as in fathom_model_params, copied; EINVAL names a bad one; the last of several for a
// key counts. Holds gguf until close.
FATHOM_MUST_USE fathom_status metadata_open(const fathom_gguf *gguf, const char *const *overrides,
                                            uint32_t n_overrides, struct metadata **metadata);
void metadata_close(struct metadata **metadata);
const fathom_gguf *metadata_gguf(const struct metadata *metadata);

// After all was looked up: EINVAL names an override of a key that nobody looked up and the file
// does not have, which is a misspelt one.
FATHOM_MUST_USE fathom_status metadata_check_overrides(const struct metadata *metadata);

bool metadata_has(const struct metadata *metadata, const char *key);

// The value of a key, or `fallback` if there is none. ECORRUPT, naming the key, if it is of another
// type, out of range, an array, or (f32) not finite; EINVAL if the user's override is. "%s" in a
// key stands for general.architecture.
FATHOM_MUST_USE fathom_status metadata_u32(const struct metadata *metadata, const char *key,
                                           uint32_t fallback, uint32_t *out);
FATHOM_MUST_USE fathom_status metadata_i32(const struct metadata *metadata, const char *key,
                                           int32_t fallback, int32_t *out);
FATHOM_MUST_USE fathom_status metadata_f32(const struct metadata *metadata, const char *key,
                                           float fallback, float *out);
FATHOM_MUST_USE fathom_status metadata_bool(const struct metadata *metadata, const char *key,
                                            bool fallback, bool *out);
// *out points into the file or the overrides; fallback may be NULL, then out->text is NULL.
FATHOM_MUST_USE fathom_status metadata_string(const struct metadata *metadata, const char *key,
                                              const char *fallback, struct fathom_gguf_string *out);
// An array; *entry NULL if there is none, or if the key has a single value (some keys come in both
// forms). Any integer item_type stands for all integers and bool, either float for both.
FATHOM_MUST_USE fathom_status metadata_array(const struct metadata *metadata, const char *key,
                                             int32_t item_type,
                                             const struct fathom_gguf_entry **entry);

#endif
