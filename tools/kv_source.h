// Where `fathom bench attend` takes keys, values and queries from: made up, or recorded. They are
// given as the cache holds them, after RoPE.

#ifndef FATHOM_TOOLS_KV_SOURCE_H
#define FATHOM_TOOLS_KV_SOURCE_H

#include <stdint.h>

struct kv_shape {
    uint32_t n_layers, n_heads, n_kv_heads, d_k, d_v;
};

struct kv_source {
    struct kv_shape shape;
    const uint32_t *places; // [n_steps] of the tokens that ask, ascending
    uint32_t n_steps;
    void *self;
    // k [n, n_kv_heads, d_k] and v [n, n_kv_heads, d_v] of tokens first .. first + n - 1.
    int (*rows)(void *self, uint32_t layer, uint32_t first, uint32_t n, float *k, float *v);
    // q [n_heads, d_k] of the token at places[step].
    int (*queries)(void *self, uint32_t layer, uint32_t step, float *q);
};

#endif
