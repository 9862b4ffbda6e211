// The beginning and the clock of benches on a device.

#include "tests/gpu/gpu_bench.h"

#include "tests/gpu/gpu_rig.h"

#include "src/base/clock.h"

int gpu_bench(const char *which)
{
    struct cudaDeviceProp properties;
    int n_devices = 0;
    if (cudaGetDeviceCount(&n_devices) != cudaSuccess || n_devices == 0) {
        printf("skipped: no CUDA device\n");
        return 77;
    }
    gpu_ok(cudaGetDeviceProperties(&properties, 0));
    printf("%s, %d multiprocessors\n", properties.name, properties.multiProcessorCount);
    return gpu_bench_run(which, (uint32_t)properties.multiProcessorCount);
}

int gpu_bench_no_part(const char *which)
{
    fprintf(stderr, "this bench has no part of that name: %s\n", which);
    return 2;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double gpu_bench_seconds(void (*call)(void *arg), void *arg, int n_calls)
{
    enum { WARM_UPS = 3, RUNS = 9 };
    double times[RUNS];
    for (int run = -WARM_UPS; run < RUNS; run++) {
        const uint64_t begin = clock_ns();
        for (int i = 0; i < n_calls; i++)
            call(arg);
        gpu_ok(cudaStreamSynchronize(NULL));
        times[run < 0 ? 0 : run] = 1e-9 * (double)(clock_ns() - begin) / n_calls;
    }
    qsort(times, RUNS, sizeof times[0], by_value);
    return times[RUNS / 2];
}
