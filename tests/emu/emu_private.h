// What the parts of the emulation share. One lock, taken by emu_enter, guards all of it.

#ifndef FATHOM_TESTS_EMU_EMU_PRIVATE_H
#define FATHOM_TESTS_EMU_EMU_PRIVATE_H

#include "tests/emu/emu.h"
#include "tests/emu/emu_kernel.h"

// ---- emu.c --------------------------------------------------------------------------------------

const struct emu_mode *emu_mode(void);
// Every call of the runtime begins and ends with these. The first locks, and returns `error` when
// it is this call's turn to fail; the second notes the status for cudaGetLastError and unlocks.
cudaError_t emu_enter(cudaError_t error);
cudaError_t emu_leave(cudaError_t status);
// The same for calls that never fail of themselves: those that free.
void emu_lock(void);
void emu_unlock(void);
cudaError_t emu_last_error(bool forget);
// Counts what must be given back: +1 and -1.
void emu_count_handles(int change);

// ---- emu_memory.c -------------------------------------------------------------------------------

enum emu_where { EMU_DEVICE, EMU_PINNED, EMU_REGISTERED };

struct emu_memory {
    char *at;
    size_t bytes;
    enum emu_where where;
    bool is_open;        // false: allocated in the order of a stream, and not yet its turn
    char *before, *then; // copies, while a kernel runs twice
};

cudaError_t emu_memory_new(enum emu_where where, size_t bytes, bool is_open, void **at);
cudaError_t emu_memory_register(void *at, size_t bytes);
// The allocation in which the address lies, or NULL: pageable host memory.
struct emu_memory *emu_memory_find(const void *at);
bool emu_memory_is_range(const void *at); // of the device's addresses, allocated or not
void emu_memory_open(struct emu_memory *memory);
void emu_memory_free(struct emu_memory *memory);
size_t emu_memory_used(void); // bytes on the device
// Opens the device's memory to this process, or closes it. Closed while the host runs.
void emu_memory_unlock(bool unlock);
size_t emu_memory_end(void); // frees all; returns what was left

// For a kernel that runs twice: keeps what was there before; keeps what the first run made and puts
// back what was before; fails unless the second run made the same.
void emu_memory_save(void);
void emu_memory_swap(void);
void emu_memory_compare(const char *kernel);

// ---- emu_stream.c -------------------------------------------------------------------------------

// Work for a stream. `run` and `drop` get `arg`; drop may be NULL.
struct emu_work {
    const char *what;
    void (*run)(void *arg);
    void (*drop)(void *arg);
    void *arg;
};
bool emu_stream_is_blocking(cudaStream_t stream);   // a known one; the default one is
cudaStream_t emu_stream_known(cudaStream_t stream); // the default one, or fails if there is none
void emu_stream_push(cudaStream_t stream, const struct emu_work *work);
void emu_stream_finish(cudaStream_t stream);
void emu_stream_finish_all(void);
bool emu_stream_is_working(void);
size_t emu_stream_end(void); // returns how many were left open

// ---- emu_graph.c --------------------------------------------------------------------------------

void emu_graph_begin(void); // of a device
void emu_graph_end(void);
// Whether the stream is recorded, and the work so part of a graph, which will drop it.
bool emu_graph_takes(cudaStream_t stream, const struct emu_work *work);
bool emu_graph_records(cudaStream_t stream);
// A thread that records a stream may not wait, or change memory, meanwhile, and none may wait for
// the whole device: that spoils the recording. Returns what such a call then returns.
cudaError_t emu_graph_refuse(bool of_any_thread);
// Ends the test where the call cannot be part of a recording here.
void emu_graph_forbid(cudaStream_t stream, const char *call);

// ---- emu_block.c --------------------------------------------------------------------------------

void emu_grid_run(const struct emu_launch *launch);

// ---- emu_device.c -------------------------------------------------------------------------------

size_t emu_device_bytes(void);
size_t emu_shared_max(void);                   // bytes of a block
size_t emu_shared_allowed(const void *kernel); // bytes of a block of that kernel
void emu_device_end(void);

#endif
