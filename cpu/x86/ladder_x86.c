// The ladder of x86-64: what the processor and the system support, and who overrides what.
//
// Runs once for each device that is opened.

#include "cpu/ladder.h"

#include "fathom/device.h"

#include <cpuid.h>

// By hand, because clang 14's __builtin_cpu_supports does not know the name.
static bool has_f16c(void)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

uint32_t ladder_isa(void)
{
    uint32_t isa = 0;
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c())
        return isa;
    isa |= FATHOM_ISA_AVX2;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return isa;
    isa |= FATHOM_ISA_AVX512;
    if (__builtin_cpu_supports("avx512vnni")) isa |= FATHOM_ISA_AVX512_VNNI;
    if (__builtin_cpu_supports("avx512bf16")) isa |= FATHOM_ISA_AVX512_BF16;
    if ((isa & FATHOM_ISA_AVX512_VNNI) != 0 && ladder_has_amx()) isa |= FATHOM_ISA_AMX;
    return isa;
}

// AMX counts only on top of VNNI.
static const char *name_of_avx512(uint32_t isa)
{
    static const char *const names[][2] = {{"avx512", "avx512-bf16"},
                                           {"avx512-vnni", "avx512-vnni-bf16"},
                                           {"avx512-vnni-amx", "avx512-vnni-bf16-amx"}};
    const int top = (isa & FATHOM_ISA_AVX512_VNNI) == 0 ? 0 : (isa & FATHOM_ISA_AMX) == 0 ? 1 : 2;
    return names[top][(isa & FATHOM_ISA_AVX512_BF16) != 0];
}

void ladder_fill(struct kernel_table *table, uint32_t isa)
{
    if ((isa & FATHOM_ISA_AVX2) == 0) return;
    table->name = "avx2";
    matmul_avx2_fill(table);
    score_avx2_fill(table);
    vector_avx2_fill(table);
    attend_avx2_fill(table);
    attend_runs_avx2_fill(table);
    kv_codec_avx2_fill(table);
    if ((isa & FATHOM_ISA_AVX512) == 0) return;
    matmul_avx512_fill(table);
    score_avx512_fill(table);
    vector_avx512_fill(table);
    attend_avx512_fill(table);
    attend_runs_avx512_fill(table);
    kv_codec_avx512_fill(table);
    if ((isa & FATHOM_ISA_AVX512_VNNI) != 0) {
        matmul_vnni_fill(table);
        score_vnni_fill(table);
        attend_runs_vnni_fill(table);
        if ((isa & FATHOM_ISA_AMX) != 0) matmul_amx_fill(table);
    }
    if ((isa & FATHOM_ISA_AVX512_BF16) != 0) matmul_bf16_fill(table);
    table->name = name_of_avx512(isa);
}
