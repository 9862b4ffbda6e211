// What the tests of the engine share: parameters from sizes, engines on a device of two threads,
// and random values.

#ifndef FATHOM_TESTS_KV_KV_RIG_H
#define FATHOM_TESTS_KV_KV_RIG_H

#include "tests/check.h"

#include "fathom/fathom.h"
#include "src/base/rng.h"

struct rig_sizes {
    uint32_t n_layers, n_heads, n_kv_heads, d; // d: of keys and of values
    uint32_t n_tokens, n_step;                 // at most
};

// The library's defaults, but for sizes.
struct fathom_engine_params rig_params(const struct rig_sizes *sizes);

// Each of them fails the test when it goes wrong. rig_close takes NULL for what is not open.
fathom_device *rig_device(void);
void rig_open(const struct fathom_engine_params *params, fathom_device **device,
              fathom_engine **engine);
// With as little RAM as the engine takes: params->kv.host_bytes grows until it opens, by 1/part of
// itself.
void rig_open_least(fathom_device *device, struct fathom_engine_params *params, uint32_t part,
                    fathom_engine **engine);
void rig_close(fathom_device **device, fathom_engine **engine);
struct fathom_kv_stats rig_stats(const fathom_engine *engine);

// Checks that no engine opens with these, and that the text has `word`.
void rig_refuses(const struct fathom_engine_params *params, const char *word);

void rig_fill(struct rng *rng, float *x, size_t n); // normal
float *rig_values(struct rng *rng, size_t n);       // normal; the caller frees them with mem_free

#endif
