// Allocation for the command. Sizes come from flags and files, so products are checked.

#include "tools/block.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tools/say.h"

void *block_new(size_t n, size_t item_bytes)
{
    void *block = calloc(n > 0 ? n : 1, item_bytes);
    if (block == NULL) say_error("no memory for %zu x %zu bytes", n, item_bytes);
    return block;
}

int block_grow(void *items, size_t *capacity, size_t n, size_t item_bytes)
{
    if (n <= *capacity) return EXIT_GOOD;
    size_t grown = *capacity <= SIZE_MAX / 2 ? *capacity * 2 : n;
    if (grown < n) grown = n;
    void *old;
    memcpy(&old, items, sizeof old);
    void *block = grown <= SIZE_MAX / item_bytes ? realloc(old, grown * item_bytes) : NULL;
    if (block == NULL) return say_error("no memory for %zu x %zu bytes", grown, item_bytes);
    memcpy(items, &block, sizeof block);
    *capacity = grown;
    return EXIT_GOOD;
}

void block_free(void *block)
{
    free(block);
}

uint64_t block_machine_bytes(void)
{
    return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

uint64_t block_free_bytes(void)
{
    unsigned long long kib;
    char line[128];
    uint64_t bytes = block_machine_bytes();
    FILE *file = fopen("/proc/meminfo", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1) bytes = (uint64_t)kib << 10;
    if (file != NULL) (void)fclose(file); // of a file that was read
    return bytes;
}

uint64_t block_peak_bytes(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (uint64_t)usage.ru_maxrss << 10 : 0;
}

void block_forget_peak(void)
{
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (file == NULL) return;
    fputs("5", file);
    (void)fclose(file); // an older peak is all that can come of a failure
}
