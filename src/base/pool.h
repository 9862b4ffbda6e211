// A fixed team of threads that all run one function and meet at its end.
//
// A decode step crosses the pool several times for each layer, so workers spin for a short while
// between crossings before they sleep on a futex or condition. The caller is thread 0.

#ifndef FATHOM_SRC_BASE_POOL_H
#define FATHOM_SRC_BASE_POOL_H

#include "fathom/types.h"

struct pool;

struct pool_params {
    uint32_t n_threads;  // 1 or more; 1 starts no worker
    const int32_t *cpus; // [n_threads] system numbers of the CPUs to pin to, or NULL; borrowed.
                         // cpus[0] is the caller's and is not applied to it
};

FATHOM_MUST_USE fathom_status pool_open(const struct pool_params *params, struct pool **pool);
void pool_close(struct pool **pool);
uint32_t pool_count(const struct pool *pool);

// Runs fn(arg, thread, n_threads) once on every thread and returns when all are done. One caller at
// a time; fn must not call pool_run on the same pool.
typedef void (*pool_fn)(void *arg, uint32_t thread, uint32_t n_threads);
void pool_run(struct pool *pool, pool_fn fn, void *arg);

// Shares out n_items in pieces of `grain`, to whichever thread is free; fn(arg, begin, end,
// thread). Runs on the caller alone when there is one piece.
typedef void (*pool_range_fn)(void *arg, size_t begin, size_t end, uint32_t thread);
void pool_for(struct pool *pool, size_t n_items, size_t grain, pool_range_fn fn, void *arg);

#endif
