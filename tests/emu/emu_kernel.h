// What emulated kernels call: the C side of tests/emu/emu_dialect.h. All of it is for the running
// thread of the running block.

#ifndef FATHOM_TESTS_EMU_EMU_KERNEL_H
#define FATHOM_TESTS_EMU_EMU_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { EMU_WARP = 32, EMU_THREADS_MAX = 1024 };

struct emu_ids {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
};
extern const struct emu_ids *emu_ids; // of the running thread, NULL outside kernels

// Where threads meet. Threads that meet must stand at one place.
struct emu_place {
    const char *what; // "__syncthreads"
    const char *file;
    int line;
};

// Waits for all threads of the block; returns for how many of them the predicate was true.
unsigned emu_barrier(const struct emu_place *place, bool predicate);

// Waits for the lanes of the mask; the last one to come completes the operation for all. in[l] and
// out[l] are NULL for lanes outside the mask.
typedef void (*emu_complete_fn)(uint32_t mask, void *const *in, void *const *out);
void emu_meet(const struct emu_place *place, uint32_t mask, emu_complete_fn complete, void *in,
              void *out);
unsigned emu_lane(void);

struct emu_shuffle {
    uint64_t value;
    int from; // lane
};
void emu_complete_nothing(uint32_t mask, void *const *in, void *const *out);
void emu_complete_shuffle(uint32_t mask, void *const *in, void *const *out); // to uint64_t
void emu_complete_vote(uint32_t mask, void *const *in, void *const *out);    // bool to unsigned
void emu_complete_match(uint32_t mask, void *const *in, void *const *out);   // unsigned, both

// The operands of mma.sync as a lane holds them; C is replaced by the result.
struct emu_mma {
    unsigned a[4], b[2];
    unsigned c[4]; // bits of float, or int32
};
void emu_complete_mma_bf16(uint32_t mask, void *const *in, void *const *out); // m16n8k16
void emu_complete_mma_f16(uint32_t mask, void *const *in, void *const *out);  // m16n8k16
void emu_complete_mma_s8(uint32_t mask, void *const *in, void *const *out);   // m16n8k32
// A row for ldmatrix: 16 bytes of shared memory, aligned.
void emu_check_row(const void *row);
// in: the 16 bytes that the lane's address names; out: four registers.
void emu_complete_ldmatrix(uint32_t mask, void *const *in, void *const *out);
void emu_complete_ldmatrix_trans(uint32_t mask, void *const *in, void *const *out);

// cp.async: 16 bytes, of which the first `bytes` come from `from` and the rest are zero.
void emu_copy(void *to, const void *from, size_t bytes);
void emu_copy_commit(void);
void emu_copy_wait(unsigned n_pending);

// Shared memory, new and poisoned for each block. `tag` tells the variables apart.
void *emu_shared(const void *tag, size_t bytes, size_t align);
void *emu_shared_dynamic(void);

// For ThreadSanitizer: what a fence orders is what lies before and behind atomics.
void emu_fence(void);
void emu_atomic(const void *at);

void emu_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

// ---- Launching, from the host -------------------------------------------------------------------

struct emu_launch {
    const char *name;
    const void *kernel; // its address, which attributes hang from
    uint32_t blocks[3];
    uint32_t n_threads;
    size_t shared_bytes;
    void (*run)(void *call);  // one thread of the kernel
    void (*drop)(void *call); // frees it
    void *call;               // taken, whatever becomes of the launch
};
cudaError_t emu_queue_launch(const struct emu_launch *launch, cudaStream_t stream);
// A pointer parameter must be NULL or point into device or pinned memory.
void emu_check_pointer(const char *kernel, int index, const void *pointer);
// No word of a struct may be the address of other memory of the host.
void emu_check_words(const char *kernel, int index, const void *arg, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif
