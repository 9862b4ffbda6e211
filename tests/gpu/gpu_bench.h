// Benches of kernels: only on a device, where each test has its own; the emulation has no speed.

#ifndef FATHOM_TESTS_GPU_GPU_BENCH_H
#define FATHOM_TESTS_GPU_GPU_BENCH_H

#include <stdint.h>

// Prints a table; `which` (a type's name, say) narrows it, NULL is all. The result is main's: 77
// where there is no device.
int gpu_bench(const char *which);

// What each test's bench is: gpu_bench calls it once it has found and named the device, which has
// n_sms multiprocessors.
int gpu_bench_run(const char *which, uint32_t n_sms);

// For a bench with one table: says that it has no part of that name.
int gpu_bench_no_part(const char *which);

// Median seconds of a call, of several runs of n_calls on the default stream.
double gpu_bench_seconds(void (*call)(void *arg), void *arg, int n_calls);

#endif
