// Benches of kernels: only on a device, where each test has its own; the emulation has no speed.

#ifndef FATHOM_TESTS_GPU_GPU_BENCH_H
#define FATHOM_TESTS_GPU_GPU_BENCH_H

// Prints a table; `which` (a type's name, say) narrows it, NULL is all. The result is main's.
int gpu_bench(const char *which);

// Median seconds of a call, of several runs of n_calls on the default stream.
double gpu_bench_seconds(void (*call)(void *arg), void *arg, int n_calls);

#endif
