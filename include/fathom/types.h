// What every other public header needs: export marks, status codes, number types, the log.
//
// Conventions of the whole API, stated once:
// - Functions that can fail return fathom_status; results come through out-parameters, last, and
//   are written only on success. After an error, fathom_last_error() tells the thread that got it
//   what went wrong and which knob to turn.
// - Every params struct begins with struct_bytes and is filled by its _init function; it needs to
//   live only for the call that takes it.
// - Pointers, handles among them, must be valid: NULL is legal where a comment says so, and nowhere
//   else. Functions that return a status may answer NULL with FATHOM_EINVAL; getters do not look.
// - Pointers are borrowed for the call unless the comment says "holds" (kept until the object that
//   holds it is closed) or "gives" (the caller must release it).
// - _close takes a pointer to the handle, accepts NULL and NULL handles, and nulls the handle.
// - The library never prints, exits or aborts on an operating error.

#ifndef FATHOM_TYPES_H
#define FATHOM_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#    define FATHOM_API       __attribute__((visibility("default")))
#    define FATHOM_MUST_USE  __attribute__((warn_unused_result))
#    define FATHOM_RESTRICT  __restrict__
#    define FATHOM_PRINTF(f) __attribute__((format(printf, f, (f) + 1)))
#else
#    define FATHOM_API
#    define FATHOM_MUST_USE
#    define FATHOM_RESTRICT
#    define FATHOM_PRINTF(f)
#endif

// Zero is good, above zero is not an error, below zero is.
enum fathom_status_code {
    FATHOM_OK = 0,
    FATHOM_IN_PROGRESS = 1, // asked for, not there yet
    FATHOM_RETRY = 2,       // nothing happened; ask again
    FATHOM_PARTIAL = 3,     // done in part; the out-parameters say how much

    FATHOM_EINVAL = -1,       // the caller broke the contract, or a flag has a bad value
    FATHOM_ENOMEM = -2,       // no memory, or a budget is too small
    FATHOM_EIO = -3,          // a file or device failed
    FATHOM_EDEVICE = -4,      // an accelerator failed
    FATHOM_EFULL = -5,        // a fixed capacity (context, disk) is used up
    FATHOM_ECORRUPT = -6,     // bytes from a file are not what they must be
    FATHOM_EUNSUPPORTED = -7, // this build, machine or model lacks it
    FATHOM_EMISMATCH = -8,    // two things that must agree do not
    FATHOM_EINTERNAL = -9,    // a fault of Fathom itself
    FATHOM_ECANCELLED = -10,  // a callback asked to stop
};
typedef int32_t fathom_status;

// Name of a status code, for messages. Never NULL. Any thread.
FATHOM_API const char *fathom_status_name(fathom_status status);

// Text of the calling thread's last error, or "". Valid until the thread's next failing call.
FATHOM_API const char *fathom_last_error(void);

// "0.1.0", of the library at run time.
FATHOM_API const char *fathom_version(void);

// Number types of weights and of cached rows. The values are those of GGUF tensors.
enum fathom_type {
    FATHOM_TYPE_F32 = 0,
    FATHOM_TYPE_F16 = 1,
    FATHOM_TYPE_Q4_0 = 2,
    FATHOM_TYPE_Q4_1 = 3,
    FATHOM_TYPE_Q5_0 = 6,
    FATHOM_TYPE_Q5_1 = 7,
    FATHOM_TYPE_Q8_0 = 8,
    FATHOM_TYPE_Q4_K = 12,
    FATHOM_TYPE_Q5_K = 13,
    FATHOM_TYPE_Q6_K = 14,
    FATHOM_TYPE_BF16 = 30,
};

enum fathom_log_level {
    FATHOM_LOG_ERROR = 0,
    FATHOM_LOG_WARN = 1,
    FATHOM_LOG_INFO = 2,
    FATHOM_LOG_DEBUG = 3,
};

// One event, one call, no newline at the end of text. May come from any thread; must not call back
// into the library.
typedef void (*fathom_log_fn)(int level, const char *text, void *user);

// Called now and then during long work with 0 <= done <= total. Returning false cancels the work,
// which then ends with FATHOM_ECANCELLED.
typedef bool (*fathom_progress_fn)(uint64_t done, uint64_t total, void *user);

#ifdef __cplusplus
}
#endif

#endif
