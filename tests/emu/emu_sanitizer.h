// The sanitizers' run times, by weak symbols: the emulation itself is compiled without them,
// because they take a switch of stacks for a mistake; it tells them what it does instead.

#ifndef FATHOM_TESTS_EMU_EMU_SANITIZER_H
#define FATHOM_TESTS_EMU_EMU_SANITIZER_H

#include <stddef.h>

#define EMU_WEAK __attribute__((weak))
EMU_WEAK int __asan_address_is_poisoned(const volatile void *);
EMU_WEAK void __asan_poison_memory_region(const volatile void *, size_t);
EMU_WEAK void __asan_unpoison_memory_region(const volatile void *, size_t);
EMU_WEAK void __sanitizer_start_switch_fiber(void **, const void *, size_t);
EMU_WEAK void __sanitizer_finish_switch_fiber(void *, const void **, size_t *);
EMU_WEAK void *__tsan_get_current_fiber(void);
EMU_WEAK void *__tsan_create_fiber(unsigned);
EMU_WEAK void __tsan_destroy_fiber(void *);
EMU_WEAK void __tsan_switch_to_fiber(void *, unsigned);
EMU_WEAK void __tsan_acquire(void *);
EMU_WEAK void __tsan_release(void *);
EMU_WEAK void AnnotateIgnoreReadsBegin(const char *, int);
EMU_WEAK void AnnotateIgnoreReadsEnd(const char *, int);
EMU_WEAK void AnnotateIgnoreWritesBegin(const char *, int);
EMU_WEAK void AnnotateIgnoreWritesEnd(const char *, int);
EMU_WEAK void AnnotateIgnoreSyncBegin(const char *, int);
EMU_WEAK void AnnotateIgnoreSyncEnd(const char *, int);

// What was released is seen by who acquires, for ThreadSanitizer.
static inline void emu_acquire(const void *at)
{
    if (__tsan_acquire != NULL) __tsan_acquire((void *)(size_t)at);
}

static inline void emu_release(const void *at)
{
    if (__tsan_release != NULL) __tsan_release((void *)(size_t)at);
}

// The emulation's own reads and writes between these are no kernel's.
static inline void emu_ignore_begin(void)
{
    if (AnnotateIgnoreReadsBegin == NULL) return;
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
}

static inline void emu_ignore_end(void)
{
    if (AnnotateIgnoreReadsBegin == NULL) return;
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}

static inline void emu_poison(const void *at, size_t bytes)
{
    if (__asan_poison_memory_region != NULL) __asan_poison_memory_region(at, bytes);
}

static inline void emu_unpoison(const void *at, size_t bytes)
{
    if (__asan_unpoison_memory_region != NULL) __asan_unpoison_memory_region(at, bytes);
}

#endif
