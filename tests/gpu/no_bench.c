// Stands in for benches where a test is linked to the emulation.

#include "tests/gpu/gpu_bench.h"

#include <stdio.h>

int gpu_bench(const char *which)
{
    (void)which;
    printf("skipped: --bench is for the test's twin on a device, *_on_device\n");
    return 77;
}
