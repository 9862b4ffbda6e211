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

struct gpu_grid gpu_grid_slabs(uint32_t n)
{
    const uint32_t blocks = n > 0 ? (n - 1) / GPU_SLAB + 1 : 1;
    return (struct gpu_grid){{blocks, 1, 1}, GPU_SLAB_THREADS, 0};
}

struct gpu_parts gpu_cut_keys(uint32_t n_keys, size_t n_units, size_t n_wanted, uint32_t least_keys)
{
    const size_t wanted = n_units < n_wanted ? (n_wanted + n_units - 1) / n_units : 1;
    const uint32_t most = n_keys / least_keys;
    const uint32_t n = most > 1 ? at_most(wanted, most) : 1;
    const uint32_t keys = GPU_PART_KEYS(n_keys, n);
    const uint32_t n_cut = (uint32_t)(((uint64_t)n_keys + keys - 1) / keys);
    return (struct gpu_parts){n_cut > 0 ? n_cut : 1, keys};
}

struct gpu_grid gpu_grid_parts(uint32_t n_tiles, uint32_t n_kv_heads, uint32_t n_parts,
                               uint32_t threads, uint32_t shared_bytes)
{
    return (struct gpu_grid){{n_tiles * n_kv_heads * n_parts, 1, 1}, threads, shared_bytes};
}
