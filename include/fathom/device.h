// A device: the place where tensors lie and are worked on. The model and the engine share one.
//
// A CUDA device has memory of its own: rows that callers give to an engine on it (fathom_append,
// fathom_attend) lie there. An engine on it keeps all rows there: it is dense. fathom_append and
// fathom_attend then return before their work is done, on a stream of the device's own, which keeps
// no order with the caller's streams but that of the two functions at the end. Calls leave the
// device's GPU as the thread's current one.

#ifndef FATHOM_DEVICE_H
#define FATHOM_DEVICE_H

#include "fathom/types.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fathom_device fathom_device;

// Instruction sets a CPU device may use, as bits of fathom_device_params.isa_mask.
enum fathom_isa {
    FATHOM_ISA_AVX2 = 1u << 0,        // AVX2, FMA and F16C
    FATHOM_ISA_AVX512 = 1u << 1,      // AVX-512 F, BW, DQ, VL
    FATHOM_ISA_AVX512_VNNI = 1u << 2, // 8-bit dot products
    FATHOM_ISA_AVX512_BF16 = 1u << 3, // bf16 dot products
    FATHOM_ISA_AMX = 1u << 4,         // tiles of 8-bit dot products; only beside AVX512_VNNI
    FATHOM_ISA_ALL = 0x7fffffff,
};

struct fathom_device_params {
    uint32_t struct_bytes;
    uint32_t n_threads; // 0: one for each physical core that this process may run on
    uint32_t isa_mask;  // bits of enum fathom_isa; default FATHOM_ISA_ALL, 0: plain C only
    bool pin_threads;   // tie each worker to a core; default true
    const char *name;   // "cpu" (default); "cuda", the first GPU that can be used, or "cuda:N";
                        // "auto": a GPU where one can be used, else the CPU; the log says which
    fathom_log_fn log;  // NULL: silent. Held until close
    void *log_user;
};

FATHOM_API void fathom_device_params_init(struct fathom_device_params *params);

// Opens a device. EUNSUPPORTED, with the reason, if this build or machine has no device of that
// name. The handle may be used by one thread at a time.
FATHOM_API FATHOM_MUST_USE fathom_status
fathom_device_open(const struct fathom_device_params *params, fathom_device **device);

// Every engine and model on the device must be closed before it.
FATHOM_API void fathom_device_close(fathom_device **device);

// Bytes that are free now of memory of its own; 0: it has none, and works in the host's.
FATHOM_API uint64_t fathom_device_free_bytes(fathom_device *device);

// One line for people: name, threads, instruction sets. Valid until close.
FATHOM_API const char *fathom_device_text(const fathom_device *device);

struct fathom_device_info {
    char name[16];         // as fathom_device_params.name has it
    char text[112];        // for people: make and memory
    char fault[160];       // why it cannot be used; "": it can
    uint64_t memory_bytes; // of its own; 0: it works in the host's
};

// The machine's devices: the CPU, then each GPU or, where there is none, one entry named "cuda"
// whose fault says why. Fills at most n_max of infos; returns how many there are.
FATHOM_API size_t fathom_device_list(struct fathom_device_info *infos, size_t n_max);

// Order with a stream of the caller's: a cudaStream_t of the same GPU, that no graph is captured
// from; NULL is the legacy default stream. The host waits for neither. What the device is asked
// after this call comes after what the stream has been given before it: rows that the stream writes
// may then be appended or attended with.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_device_wait_stream(fathom_device *device,
                                                                   void *stream);
// And the reverse: what the stream is given after this call comes after what the device was asked
// before it. It may then read what fathom_attend wrote, and write over the rows that were given;
// not before. EINVAL, both, if the stream is being captured. EUNSUPPORTED, both, if the device has
// no streams: the CPU's calls return when their work is done.
FATHOM_API FATHOM_MUST_USE fathom_status fathom_stream_wait_device(fathom_device *device,
                                                                   void *stream);

#ifdef __cplusplus
}
#endif

#endif
