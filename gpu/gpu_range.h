// Ranges that NVIDIA's profilers show on their time lines: one for each operation of the device,
// from the call to its return.

#ifndef FATHOM_GPU_GPU_RANGE_H
#define FATHOM_GPU_GPU_RANGE_H

// Names the block that it stands in, from here to its end.
#define GPU_RANGE(NAME)                                                                            \
    __attribute__((cleanup(gpu_range_end))) const int gpu_range = gpu_range_begin(NAME)

// Returns how many ranges there are around this one. Nothing happens outside a profiler.
int gpu_range_begin(const char *name);
void gpu_range_end(const int *range);

#endif
