// In place of gpu_range.c where CUDA came without the headers of NVTX.

#include "gpu/gpu_range.h"

int gpu_range_begin(const char *name)
{
    (void)name;
    return 0;
}

void gpu_range_end(const int *range)
{
    (void)range;
}
