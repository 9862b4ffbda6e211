// 64-bit non-cryptographic hash (XXH3 from xxHash) for fingerprints and checksums.

#ifndef FATHOM_SRC_BASE_HASH_H
#define FATHOM_SRC_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t hash_bytes(const void *data, size_t bytes, uint64_t seed);

#endif
