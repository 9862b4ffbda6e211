// Memory of the device and pinned memory of the host.
//
// The device's memory is one range of addresses, which the process may touch only while the device
// works, so that a host that follows a device pointer faults. Addresses are not used again before
// the device ends; what is not allocated is poisoned for AddressSanitizer, to the byte.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/emu/emu_private.h"
#include "tests/emu/emu_sanitizer.h"

// The gaps are wide, so that what misses an allocation by a row of a matrix hits no other.
enum { ALIGN = 256, GAP_BYTES = 64 * 1024, POISON = 0xff, PAGE_BYTES = 4096 };
static const size_t range_bytes = (size_t)16 << 30;

static struct {
    char *begin, *end; // of what was ever allocated of the range
    size_t used_bytes;
    struct emu_memory *all;
    size_t n, n_room;
} memory;

static size_t round_up(size_t bytes, size_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

void emu_memory_unlock(bool unlock)
{
    size_t bytes = round_up((size_t)(memory.end - memory.begin), PAGE_BYTES);
    if (bytes > 0 && mprotect(memory.begin, bytes, unlock ? PROT_READ | PROT_WRITE : PROT_NONE))
        emu_fail("mprotect of %zu bytes failed", bytes);
}

struct emu_memory *emu_memory_find(const void *at)
{
    for (size_t i = 0; i < memory.n; i++) {
        struct emu_memory *one = &memory.all[i];
        if ((const char *)at >= one->at && (size_t)((const char *)at - one->at) < one->bytes)
            return one;
    }
    return NULL;
}

bool emu_memory_is_range(const void *at)
{
    return memory.begin != NULL && (const char *)at >= memory.begin &&
           (const char *)at < memory.begin + range_bytes;
}

size_t emu_memory_used(void)
{
    return memory.used_bytes;
}

static void add(char *at, size_t bytes, enum emu_where where, bool is_open)
{
    if (memory.n == memory.n_room) {
        memory.n_room = 2 * memory.n_room + 64;
        memory.all = realloc(memory.all, memory.n_room * sizeof *memory.all);
        if (memory.all == NULL) emu_fail("no memory for the list of allocations");
    }
    memory.all[memory.n++] =
        (struct emu_memory){.at = at, .bytes = bytes, .where = where, .is_open = is_open};
}

static char *new_range(size_t bytes)
{
    if (memory.begin == NULL) {
        memory.begin =
            mmap(NULL, range_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory.begin == MAP_FAILED) emu_fail("no addresses for the device's memory");
        memory.end = memory.begin;
    }
    // A gap before and behind.
    char *at = memory.end + GAP_BYTES, *end = at + round_up(bytes, ALIGN);
    if ((size_t)(end - memory.begin) > range_bytes)
        emu_fail("a test allocated more than %zu bytes in all", range_bytes);
    emu_poison(memory.end, (size_t)(end + GAP_BYTES - memory.end));
    memory.end = end;
    return at;
}

void emu_memory_open(struct emu_memory *one)
{
    one->is_open = true;
    emu_unpoison(one->at, one->bytes);
    memset(one->at, POISON, one->bytes);
}

cudaError_t emu_memory_new(enum emu_where where, size_t bytes, bool is_open, void **at)
{
    *at = NULL;
    if (bytes == 0) return cudaSuccess;
    if (where == EMU_DEVICE) {
        if (bytes > emu_device_bytes() - memory.used_bytes) return cudaErrorMemoryAllocation;
        *at = new_range(bytes);
        memory.used_bytes += bytes;
    } else if (posix_memalign(at, ALIGN, bytes) != 0) {
        return cudaErrorMemoryAllocation;
    } else {
        memset(*at, POISON, bytes);
    }
    add(*at, bytes, where, is_open);
    if (where == EMU_DEVICE && is_open) {
        emu_memory_unlock(true);
        emu_memory_open(&memory.all[memory.n - 1]);
        emu_memory_unlock(false);
    }
    return cudaSuccess;
}

cudaError_t emu_memory_register(void *at, size_t bytes)
{
    if (at == NULL || bytes == 0) return cudaErrorInvalidValue;
    if (emu_memory_find(at) != NULL) return cudaErrorHostMemoryAlreadyRegistered;
    add(at, bytes, EMU_REGISTERED, true);
    return cudaSuccess;
}

void emu_memory_free(struct emu_memory *one)
{
    if (one->where == EMU_DEVICE) {
        memory.used_bytes -= one->bytes;
        emu_poison(one->at, one->bytes);
    } else if (one->where == EMU_PINNED) {
        free(one->at);
    }
    free(one->before);
    free(one->then);
    *one = memory.all[--memory.n];
}

size_t emu_memory_end(void)
{
    const size_t n_left = memory.n;
    while (memory.n > 0) {
        struct emu_memory *one = &memory.all[memory.n - 1];
        const char *const names[] = {"device memory", "pinned memory", "registered memory"};
        fprintf(stderr, "emu: %zu bytes of %s left\n", one->bytes, names[one->where]);
        emu_memory_free(one);
    }
    if (memory.begin != NULL) {
        emu_unpoison(memory.begin,
                     round_up((size_t)(memory.end + GAP_BYTES - memory.begin), ALIGN));
        munmap(memory.begin, range_bytes);
    }
    free(memory.all);
    memset(&memory, 0, sizeof memory);
    return n_left;
}

// ---- A kernel that runs twice -------------------------------------------------------------------

static char *copy_of(const struct emu_memory *one)
{
    char *copy = malloc(one->bytes);
    if (copy == NULL) emu_fail("no memory for a copy of the device's");
    memcpy(copy, one->at, one->bytes);
    return copy;
}

void emu_memory_save(void)
{
    for (size_t i = 0; i < memory.n; i++)
        if (memory.all[i].is_open) memory.all[i].before = copy_of(&memory.all[i]);
}

void emu_memory_swap(void)
{
    for (size_t i = 0; i < memory.n; i++) {
        struct emu_memory *one = &memory.all[i];
        if (!one->is_open) continue;
        one->then = copy_of(one);
        memcpy(one->at, one->before, one->bytes);
    }
}

void emu_memory_compare(const char *kernel)
{
    for (size_t i = 0; i < memory.n; i++) {
        struct emu_memory *one = &memory.all[i];
        if (!one->is_open) continue;
        for (size_t byte = 0; byte < one->bytes; byte++)
            if (one->at[byte] != one->then[byte])
                emu_fail("kernel %s: what it writes depends on the order of its threads, or on "
                         "memory that nobody wrote: byte %zu of an allocation of %zu",
                         kernel, byte, one->bytes);
        free(one->before);
        free(one->then);
        one->before = one->then = NULL;
    }
}
