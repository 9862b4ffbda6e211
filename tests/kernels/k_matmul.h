// What the check and the bench of the matrix products share.

#ifndef FATHOM_TESTS_KERNELS_K_MATMUL_H
#define FATHOM_TESTS_KERNELS_K_MATMUL_H

#include "cpu/cpu_kernels.h"
#include "fathom/device.h"
#include "src/base/rng.h"

struct matmul_variant {
    const char *name;
    uint32_t mask;
};

// The ladder, bottom up. The first is the reference.
enum { MATMUL_VNNI = 3, MATMUL_AMX, MATMUL_VARIANTS = 6 };
static const struct matmul_variant matmul_variants[MATMUL_VARIANTS] = {
    {"ref", 0},
    {"avx2", FATHOM_ISA_AVX2},
    {"avx512", FATHOM_ISA_AVX2 | FATHOM_ISA_AVX512},
    {"vnni", FATHOM_ISA_AVX2 | FATHOM_ISA_AVX512 | FATHOM_ISA_AVX512_VNNI},
    {"amx", FATHOM_ISA_AVX2 | FATHOM_ISA_AVX512 | FATHOM_ISA_AVX512_VNNI | FATHOM_ISA_AMX},
    {"bf16", FATHOM_ISA_AVX2 | FATHOM_ISA_AVX512 | FATHOM_ISA_AVX512_BF16},
};

// The variant's kernel for a type; false if an earlier variant has the same one.
bool matmul_variant_kernel(uint32_t variant, int32_t type, struct matmul_kernel *kernel);

enum { MAX_ROWS = 100, MAX_TOKENS = 64, SEED = 20 };

struct problem {
    int32_t type;
    uint32_t n_cols;
    size_t row_bytes;
    uint8_t *rows;     // [MAX_ROWS, row_bytes]
    float *x;          // [MAX_TOKENS, n_cols]
    float *bias;       // [MAX_ROWS]
    double *truth;     // this and the next: [MAX_TOKENS, MAX_ROWS]
    double *parts;     // sum |x_i| m_i
    double *errors_8;  // sum e_i |w_i|, with x in 8 bits; of BF16 weights: in bf16, both
    double *errors_15; // and in 15
    double *w_sum;     // [MAX_ROWS] sum |w_i|
};

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

void problem_open(struct problem *problem, int32_t type, uint32_t n_cols);
void problem_close(struct problem *problem);

// Random rows in the file's layout: any bits for quants; scales of either sign, some of them zero
// or subnormal; normal numbers for floats.
void problem_random_rows(int32_t type, void *rows, uint32_t n_rows, uint32_t n_cols,
                         struct rng *rng);

// Prints a table; type < 0: all of them. The result is main's.
int matmul_bench(int32_t type);

#endif
