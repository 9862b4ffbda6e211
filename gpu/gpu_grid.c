// Launch geometry. A device holds a few thousand blocks at once; more would only
// pay for starting them, so the rest of the work is walked in strides.

#include "gpu/gpu_grid.h"

enum { BLOCKS_MAX = 4096, ROW_COLUMNS_PER_THREAD = 4 };

static uint32_t at_most(size_t n, uint32_t max)
{
    return n < max ? (uint32_t)n : max;
}

struct gpu_grid gpu_grid_rows(size_t n_rows, size_t n_cols)
{
    const size_t wanted = (n_cols + ROW_COLUMNS_PER_THREAD - 1) / ROW_COLUMNS_PER_THREAD;
    const uint32_t threads = at_most(wanted, GPU_ROW_THREADS_MAX);
    struct gpu_grid grid = {{at_most(n_rows, BLOCKS_MAX), 1, 1}, 0, 0};
    grid.threads = (threads + GPU_WARP - 1) / GPU_WARP * GPU_WARP;
    if (grid.threads == 0) grid.threads = GPU_WARP;
    if (grid.blocks[0] == 0) grid.blocks[0] = 1;
    return grid;
}

struct gpu_grid gpu_grid_values(size_t n)
{
    struct gpu_grid grid = {{1, 1, 1}, GPU_VALUE_THREADS, 0};
    if (n > 0) grid.blocks[0] = at_most((n - 1) / GPU_VALUE_THREADS + 1, BLOCKS_MAX);
    return grid;
}

struct gpu_grid gpu_grid_warps(size_t n)
{
    return gpu_grid_values(n < SIZE_MAX / GPU_WARP ? n * GPU_WARP : SIZE_MAX);
}
