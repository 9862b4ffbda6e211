// Stands in for the emulation where a test runs on a device: one mode, and nothing to look after.

#include "tests/emu/emu.h"

#include <cuda_runtime_api.h>

const struct emu_mode emu_modes[] = {{.name = "device"}};
const size_t emu_n_modes = 1;

void emu_begin(const struct emu_mode *mode)
{
    (void)mode;
}

size_t emu_end(void)
{
    return cudaDeviceSynchronize() != cudaSuccess;
}

uint64_t emu_calls(void)
{
    return 0;
}

uint64_t emu_graph_launches(void)
{
    return UINT64_MAX;
}
