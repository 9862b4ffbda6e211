// The only CUDA header that kernels include: what they may use beyond plain C++17, so that the same
// source runs on the device and, in the tests, on the CPU (tests/emu/emu_dialect.h, which stands in
// for all of this). All PTX is here. gpu/README.md has the rules.

#ifndef FATHOM_GPU_DIALECT_CUH
#define FATHOM_GPU_DIALECT_CUH

#ifdef __CUDACC__

#    include <cuda_bf16.h>
#    include <cuda_fp16.h>
#    include <cuda_runtime.h>

#    include "gpu/gpu_grid.h"

// ---- Shared memory and launches -----------------------------------------------------------------

#    define SHARED_ARRAY(type, name, n) __shared__ type name[n]
#    define SHARED_VALUE(type, name)    __shared__ type name
#    define SHARED_DYNAMIC(name)        extern __shared__ __align__(128) unsigned char name[]

template <class T>
struct dev_same {
    using type = T;
};

// The arguments are converted to the kernel's parameters.
template <class... P>
cudaError_t dev_launch(void (*kernel)(P...), const gpu_grid &grid, cudaStream_t stream,
                       typename dev_same<P>::type... args)
{
    void *pointers[] = {static_cast<void *>(&args)...};
    return cudaLaunchKernel(reinterpret_cast<const void *>(kernel),
                            dim3(grid.blocks[0], grid.blocks[1], grid.blocks[2]),
                            dim3(grid.threads), pointers, grid.shared_bytes, stream);
}

#    define LAUNCH(kernel, grid, stream, ...) dev_launch(kernel, grid, stream, __VA_ARGS__)

// ---- Asynchronous copies ------------------------------------------------------------------------

static __device__ __forceinline__ unsigned dev_shared_address(const void *shared)
{
    return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// Copies 16 bytes, both sides aligned to 16, or writes zeros where `valid` is false.
static __device__ __forceinline__ void dev_copy16(void *shared, const void *global,
                                                  bool valid = true)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dev_shared_address(shared)),
                 "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
}

// Ends a group of this thread's copies.
static __device__ __forceinline__ void dev_copy_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most the N newest groups are under way. Other threads see what came after a
// barrier only.
template <int N>
static __device__ __forceinline__ void dev_copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// ---- Matrices of a warp -------------------------------------------------------------------------

// c [16, 8] += a [16, 16] b [16, 8]; fragments as the PTX manual lays them out for m16n8k16.
static __device__ __forceinline__ void dev_mma_bf16(float (&c)[4], const unsigned (&a)[4],
                                                    const unsigned (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

static __device__ __forceinline__ void dev_mma_f16(float (&c)[4], const unsigned (&a)[4],
                                                   const unsigned (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// c [16, 8] += a [16, 32] b [32, 8], of signed bytes; m16n8k32.
static __device__ __forceinline__ void dev_mma_s8(int (&c)[4], const unsigned (&a)[4],
                                                  const unsigned (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8x8 matrices of 16-bit values from shared memory; lane l gives the address of row l % 8 of
// matrix l / 8.
static __device__ __forceinline__ void dev_load_matrix(unsigned (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(dev_shared_address(row))
                 : "memory");
}

// The same, each matrix transposed.
static __device__ __forceinline__ void dev_load_matrix_turned(unsigned (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(dev_shared_address(row))
                 : "memory");
}

#elif !defined FATHOM_TESTS_EMU_EMU_DIALECT_H
#    error "a .cu file is for nvcc, or for tests/emu/emu_dialect.h in front of it"
#endif

#endif
