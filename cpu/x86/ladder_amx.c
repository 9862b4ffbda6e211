// Whether the processor has AMX's tiles of bytes, and Linux lets this process use them: their state
// is large, so that Linux gives it only to who asks.

#include "cpu/ladder.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    ASK_FOR_STATE = 0x1023, // ARCH_REQ_XCOMP_PERM of asm/prctl.h, which older systems lack
    TILE_CONFIG_STATE = 17, // by its number in XCR0
    TILE_DATA_STATE = 18,
    TILE_BIT = 24, // of edx of leaf 7
    TILE_INT8_BIT = 25,
};

// The states that the system keeps.
static uint32_t kept_states(void)
{
    uint32_t eax, edx;
    __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    return eax;
}

bool ladder_has_amx(void)
{
    const uint32_t bits = 1u << TILE_BIT | 1u << TILE_INT8_BIT;
    const uint32_t states = 1u << TILE_CONFIG_STATE | 1u << TILE_DATA_STATE;
    unsigned eax, ebx, ecx, edx;
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & bit_OSXSAVE) == 0) return false;
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx & bits) != bits) return false;
    return (kept_states() & states) == states &&
           syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA_STATE) == 0;
}
