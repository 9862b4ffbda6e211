// The CUDA dialect of gpu/dialect.cuh for a C++ compiler of the host: included before a .cu file,
// it makes of it a program for the fibers of tests/emu. The rest is in emu_dialect_*.h.

#ifndef FATHOM_TESTS_EMU_EMU_DIALECT_H
#define FATHOM_TESTS_EMU_EMU_DIALECT_H

#include <cstddef>
#include <cstring>
#include <tuple>
#include <type_traits>

// NVIDIA's headers work with a plain C++ compiler; only the words of the language are replaced.
#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "gpu/gpu_grid.h"
#include "tests/emu/emu_kernel.h"

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __launch_bounds__
#undef __align__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__   use_SHARED_ARRAY_or_SHARED_VALUE_instead

#define threadIdx (::emu_ids->thread)
#define blockIdx  (::emu_ids->block)
#define blockDim  (::emu_ids->block_dim)
#define gridDim   (::emu_ids->grid_dim)

// Where the caller of a function stands.
#define EMU_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

// ---- Shared memory ------------------------------------------------------------------------------

#define SHARED_ARRAY(type, name, n)                                                                \
    static const char name##_tag = 0;                                                              \
    auto &name =                                                                                   \
        *static_cast<type(*)[n]>(::emu_shared(&name##_tag, sizeof(type) * (n), alignof(type)))
#define SHARED_VALUE(type, name)                                                                   \
    static const char name##_tag = 0;                                                              \
    type &name = *static_cast<type *>(::emu_shared(&name##_tag, sizeof(type), alignof(type)))
#define SHARED_DYNAMIC(name)                                                                       \
    unsigned char *name = static_cast<unsigned char *>(::emu_shared_dynamic())

// ---- Launches -----------------------------------------------------------------------------------

namespace emu
{

template <class... P>
struct call {
    void (*kernel)(P...);
    std::tuple<std::remove_cv_t<P>...> args; // copied when the launch is made, as CUDA does
};

template <class T>
struct same {
    using type = T;
};

template <class P>
void check_arg(const char *kernel, int index, const P &arg)
{
    static_assert(std::is_trivially_copyable<P>::value, "parameters are copied byte by byte");
    if constexpr (std::is_pointer<P>::value)
        emu_check_pointer(kernel, index, static_cast<const void *>(arg));
    if constexpr (std::is_class<P>::value) {
        P copy = arg;
#if defined __has_builtin && __has_builtin(__builtin_clear_padding)
        // It may hold half of an old address, which a number beside it makes whole.
        __builtin_clear_padding(&copy);
#endif
        emu_check_words(kernel, index, &copy, sizeof copy);
    }
}

template <class... P>
cudaError_t launch(const char *name, void (*kernel)(P...), const gpu_grid &grid,
                   cudaStream_t stream, typename same<P>::type... args)
{
    using this_call = call<P...>;
    int index = 0;
    (check_arg(name, index++, args), ...);
    emu_launch launched = {
        name,
        reinterpret_cast<const void *>(kernel),
        {grid.blocks[0], grid.blocks[1], grid.blocks[2]},
        grid.threads,
        grid.shared_bytes,
        [](void *it) {
            std::apply(static_cast<this_call *>(it)->kernel, static_cast<this_call *>(it)->args);
        },
        [](void *it) { delete static_cast<this_call *>(it); },
        new this_call{kernel, {args...}},
    };
    return emu_queue_launch(&launched, stream);
}

} // namespace emu

#define LAUNCH(kernel, grid, stream, ...) emu::launch(#kernel, kernel, grid, stream, __VA_ARGS__)

#include "tests/emu/emu_dialect_math.h"
#include "tests/emu/emu_dialect_warp.h"

#endif
