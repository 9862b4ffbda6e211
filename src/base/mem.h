// Memory: the only callers of malloc, and arithmetic on sizes that cannot wrap.

#ifndef FATHOM_SRC_BASE_MEM_H
#define FATHOM_SRC_BASE_MEM_H

#include "fathom/types.h"

// Of every block from mem_new and arena_new: a cache line, a zmm register.
enum { MEM_ALIGN_BYTES = 64 };

// A zeroed block of count * item_bytes, MEM_ALIGN_BYTES aligned. ENOMEM, naming `what`, when there
// is none or the product wraps. Zero bytes give a valid block.
FATHOM_MUST_USE fathom_status mem_new(size_t count, size_t item_bytes, const char *what, void *out);
// Grows *block (from mem_new, or NULL) from old_count to new_count items; new items are zero; the
// old block stays valid on error.
FATHOM_MUST_USE fathom_status mem_grow(size_t old_count, size_t new_count, size_t item_bytes,
                                       const char *what, void *block);
// Frees what mem_new gave. NULL is fine.
void mem_free(void *block);
// A zero-terminated copy, freed with mem_free.
FATHOM_MUST_USE fathom_status mem_string(const char *text, size_t bytes, char **out);

// Reserves address space that becomes memory, zeroed, page by page as it is touched. Huge pages
// suit what will be filled whole, small ones what fills slowly or in many places at once.
enum mem_pages { MEM_PAGES_SMALL, MEM_PAGES_HUGE };
FATHOM_MUST_USE fathom_status mem_reserve(size_t bytes, enum mem_pages pages, const char *what,
                                          void **out);
// Gives back the memory (not the addresses) of the pages that lie wholly inside the range.
void mem_discard(void *at, size_t bytes);
void mem_unreserve(void *block, size_t bytes);

// False, and *out untouched, when the result would wrap.
bool size_add(size_t a, size_t b, size_t *out);
bool size_mul(size_t a, size_t b, size_t *out);
// Rounds up to a multiple of a power of two; the caller knows that it does not wrap.
size_t size_round(size_t bytes, size_t multiple);

// A size for people: "12 bytes", "1.5 KiB", "1.5 MiB", "2.00 GiB".
struct size_text {
    char text[32];
};
struct size_text size_text(uint64_t bytes);

// Many small allocations that die together. Not for threads.
struct arena {
    struct arena_chunk *chunks; // newest first
    size_t used_bytes;          // of the newest chunk
    size_t total_bytes;         // of all chunks: what the arena costs
};
// The most that a block adds to total_bytes beyond its own size.
enum { ARENA_CHUNK_BYTES = 64 * 1024 };

// Zeroed and aligned as from mem_new.
FATHOM_MUST_USE fathom_status arena_new(struct arena *arena, size_t count, size_t item_bytes,
                                        const char *what, void *out);
// A zero-terminated copy; strings lie side by side, unaligned.
FATHOM_MUST_USE fathom_status arena_string(struct arena *arena, const char *text, size_t bytes,
                                           char **out);
void arena_fini(struct arena *arena); // frees all; the arena is empty and usable again

#endif
