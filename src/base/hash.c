// The one place that knows which hash Fathom uses.

#include "src/base/hash.h"

#include <xxhash.h>

uint64_t hash_bytes(const void *data, size_t bytes, uint64_t seed)
{
    return XXH3_64bits_withSeed(data, bytes, seed);
}
