// The only file that calls malloc's family, and the only one that maps memory of no file.
//
// Blocks come zeroed and aligned, so no caller reads what an earlier owner left behind and every
// kernel may use aligned loads at the start of a block. Reserved ranges are for storage that grows:
// their addresses never change, and only touched pages cost memory.

#include "src/base/mem.h"

#include "src/base/status.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

// A range of at least this size starts at a multiple of it, so that all of it can be huge pages.
static const size_t huge_page_bytes = (size_t)1 << 21;

bool size_add(size_t a, size_t b, size_t *out)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum)) return false;
    *out = sum;
    return true;
}

bool size_mul(size_t a, size_t b, size_t *out)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product)) return false;
    *out = product;
    return true;
}

struct size_text size_text(uint64_t bytes)
{
    struct size_text size;
    const double mib = 1 << 20, gib = 1 << 30;
    if (bytes < 1 << 10)
        (void)snprintf(size.text, sizeof size.text, "%u bytes", (uint32_t)bytes);
    else if (bytes < 1 << 20)
        (void)snprintf(size.text, sizeof size.text, "%.1f KiB", (double)bytes / 1024);
    else if (bytes < 1 << 30)
        (void)snprintf(size.text, sizeof size.text, "%.1f MiB", (double)bytes / mib);
    else
        (void)snprintf(size.text, sizeof size.text, "%.2f GiB", (double)bytes / gib);
    return size;
}

size_t size_round(size_t bytes, size_t multiple)
{
    assert(multiple != 0 && (multiple & (multiple - 1)) == 0);
    return (bytes + multiple - 1) & ~(multiple - 1);
}

// `out` is the address of a pointer of any object type: stored through memcpy, because a T ** may
// not be written as a void **.
static void store_pointer(void *out, void *block)
{
    memcpy(out, &block, sizeof block);
}

fathom_status mem_new(size_t count, size_t item_bytes, const char *what, void *out)
{
    size_t bytes = 0;
    size_t padded_bytes = 0;
    if (!size_mul(count, item_bytes, &bytes) || !size_add(bytes, MEM_ALIGN_BYTES, &padded_bytes))
        return status_set(FATHOM_ENOMEM, "%s: %zu x %zu bytes exceed the address space", what,
                          count, item_bytes);
    // aligned_alloc wants a multiple of the alignment; zero bytes still get a block of their own.
    size_t block_bytes = size_round(bytes > 0 ? bytes : 1, MEM_ALIGN_BYTES);
    void *block = aligned_alloc(MEM_ALIGN_BYTES, block_bytes);
    if (block == NULL) return status_set(FATHOM_ENOMEM, "%s: no memory for %zu bytes", what, bytes);
    memset(block, 0, block_bytes);
    store_pointer(out, block);
    return FATHOM_OK;
}

fathom_status mem_grow(size_t old_count, size_t new_count, size_t item_bytes, const char *what,
                       void *block)
{
    assert(new_count >= old_count);
    void *old_block = NULL;
    void *new_block = NULL;
    memcpy(&old_block, block, sizeof old_block);
    FATHOM_TRY(mem_new(new_count, item_bytes, what, &new_block));
    if (old_block != NULL && old_count > 0) memcpy(new_block, old_block, old_count * item_bytes);
    mem_free(old_block);
    store_pointer(block, new_block);
    return FATHOM_OK;
}

void mem_free(void *block)
{
    free(block);
}

fathom_status mem_string(const char *text, size_t bytes, char **out)
{
    size_t copy_bytes = 0;
    if (!size_add(bytes, 1, &copy_bytes))
        return status_set(FATHOM_ENOMEM, "string: %zu bytes exceed the address space", bytes);
    char *copy = NULL;
    FATHOM_TRY(mem_new(copy_bytes, 1, "string", &copy));
    if (bytes > 0) memcpy(copy, text, bytes);
    *out = copy;
    return FATHOM_OK;
}

static size_t get_page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

// What mem_reserve maps for a request: whole pages, and at least one.
static size_t round_to_pages(size_t bytes)
{
    return size_round(bytes > 0 ? bytes : 1, get_page_bytes());
}

fathom_status mem_reserve(size_t bytes, enum mem_pages pages, const char *what, void **out)
{
    const bool huge = pages == MEM_PAGES_HUGE && bytes >= huge_page_bytes;
    size_t slack_bytes = huge ? huge_page_bytes : 0;
    size_t limit_bytes = 0;
    if (!size_add(bytes, huge_page_bytes + get_page_bytes(), &limit_bytes))
        return status_set(FATHOM_ENOMEM, "%s: %zu bytes exceed the address space", what, bytes);
    size_t used_bytes = round_to_pages(bytes);
    char *map = mmap(NULL, used_bytes + slack_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return status_set(FATHOM_ENOMEM, "%s: cannot reserve %zu bytes: %s", what, bytes,
                          strerror(errno));
    size_t head_bytes = 0;
    if (slack_bytes > 0) {
        head_bytes = size_round((uintptr_t)map, huge_page_bytes) - (uintptr_t)map;
        if (head_bytes > 0) munmap(map, head_bytes);
        if (head_bytes < slack_bytes)
            munmap(map + head_bytes + used_bytes, slack_bytes - head_bytes);
    }
    // Advice: where the kernel has no huge pages, small ones do.
    (void)madvise(map + head_bytes, used_bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    *out = map + head_bytes;
    return FATHOM_OK;
}

void mem_discard(void *at, size_t bytes)
{
    size_t page_bytes = get_page_bytes();
    size_t skipped_bytes = size_round((uintptr_t)at, page_bytes) - (uintptr_t)at;
    if (bytes < skipped_bytes) return;
    size_t whole_bytes = (bytes - skipped_bytes) & ~(page_bytes - 1);
    if (whole_bytes > 0) (void)madvise((char *)at + skipped_bytes, whole_bytes, MADV_DONTNEED);
}

void mem_unreserve(void *block, size_t bytes)
{
    if (block != NULL) munmap(block, round_to_pages(bytes));
}
