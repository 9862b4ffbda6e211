// Dequantises rows of blocks from standard input to float32 on standard output, so that scripts can
// compare with other programs (tools/peers/dequant.py). No test by itself.
//
//     dump_dequant TYPE N_COLS < blocks > floats

#include "cpu/cpu_kernels.h"
#include "src/base/dtype.h"
#include "src/base/mem.h"

#include <stdio.h>
#include <stdlib.h>

static int dump(const struct dtype *dtype, size_t n_cols)
{
    struct kernel_table kernels;
    size_t row_bytes = dtype_row_bytes(dtype->type, n_cols);
    uint8_t *row = NULL;
    float *values = NULL;
    cpu_kernels_init(&kernels, 0); // the reference, which every variant is checked against
    if (mem_new(row_bytes, 1, "row", &row) < 0 ||
        mem_new(n_cols, sizeof *values, "values", &values) < 0)
        return 1;
    size_t n_bytes;
    bool good = true;
    while (good && (n_bytes = fread(row, 1, row_bytes, stdin)) > 0) {
        good = n_bytes == row_bytes;
        if (good) kernels.dequant_row(dtype->type, row, values, n_cols);
        good = good && fwrite(values, sizeof *values, n_cols, stdout) == n_cols;
    }
    mem_free(row);
    mem_free(values);
    return good && fflush(stdout) == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    const struct dtype *dtype = argc == 3 ? dtype_find_name(argv[1]) : NULL;
    size_t n_cols = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
    if (dtype == NULL || n_cols == 0 || n_cols % dtype->block_values != 0) {
        fprintf(stderr, "usage: dump_dequant TYPE N_COLS < blocks > floats\n");
        return 2;
    }
    return dump(dtype, n_cols);
}
