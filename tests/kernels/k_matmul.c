// Matrix products: every variant the machine has, against sums in double.
//
// The bound is elementwise and derived. With u = 2^-24:
//   rounding of f32 sums: LAMBDA * sqrt(n) * u * sum |x_i| m_i, the probabilistic bound of Higham
//     and Mary (2019) with lambda = 8; m_i is |w_i|, or |scale| * (quant + zero) + |offset| where a
//     kernel may sum the two parts of a quantised weight apart;
//   rounding of the result, the bias and the old value: 4 u of each;
//   kernels that hold x in fewer bits: sum e_i |w_i|, where e_i is the rounding error of x_i by the
//     form's public rule. Of 8 bits: scale = max |x| / 127 of 32 values, nearest integer. Of 15:
//     max |x| / (127 * 128). Of bf16: nearest even, so at most 2^-8 |x_i|. Some tokens lie on all
//     grids, so that nothing of the bound but f32 rounding is left;
//   what instructions may flush to zero (vdpbf16ps: operands and sums below FLT_MIN): FLT_MIN for
//     each product and each weight.

#include "tests/kernels/k_matmul.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "src/base/dtype.h"
#include "src/base/mem.h"
#include "tests/check.h"

enum {
    PAD = 3,          // out_stride - n_rows
    WILD_TOKENS = 19, // of products with NaN and infinities: more than a tile of AMX takes
};
static const double lambda = 8.0;
static const double f32_unit = 0x1p-24;
static const uint32_t row_counts[] = {1, 7, 8, 15, 16, 17, 33, MAX_ROWS};
static const uint32_t token_counts[] = {1, 2, 3, 5, 8, 13, 16, 31, MAX_TOKENS};

// One variant at work on a problem.
struct trial {
    const struct problem *problem;
    const char *name;
    struct matmul_kernel kernel;
    uint8_t *panels;
    void *x;
    float *out;
    float *whole; // [MAX_TOKENS, MAX_ROWS], all at once: what every other split must equal
};

bool matmul_variant_kernel(uint32_t variant, int32_t type, struct matmul_kernel *kernel)
{
    struct kernel_table table;
    cpu_kernels_init(&table, matmul_variants[variant].mask);
    *kernel = table.matmul[type];
    for (uint32_t i = 0; i < variant; i++) {
        cpu_kernels_init(&table, matmul_variants[i].mask);
        if (table.matmul[type].run == kernel->run) return false;
    }
    return true;
}

static double bound_of(const struct trial *trial, uint32_t token, uint32_t row, double other)
{
    const struct problem *p = trial->problem;
    const size_t at = (size_t)token * MAX_ROWS + row;
    const uint32_t wide = 4096; // no padding worth mentioning
    const size_t x_bytes = trial->kernel.x_row_bytes(wide);
    double bound = lambda * sqrt(p->n_cols) * f32_unit * p->parts[at];
    bound += 4.0 * f32_unit * (fabs(p->truth[at]) + other);
    if (x_bytes < wide * sizeof(float))
        bound += x_bytes < 2 * wide ? p->errors_8[at] : p->errors_15[at];
    return bound + (double)FLT_MIN * (p->n_cols + p->w_sum[row]);
}

// Panels of the problem's rows `first` .. `first` + n_rows.
static void pack_rows(struct trial *trial, uint32_t n_rows)
{
    const struct problem *p = trial->problem;
    const struct matmul_kernel *kernel = &trial->kernel;
    size_t panel_bytes = kernel->panel_bytes(p->n_cols);
    size_t n_panels = (n_rows + kernel->panel_rows - 1) / kernel->panel_rows;
    assert_int_equal(panel_bytes % 64, 0);
    mem_free(trial->panels);
    check_ok(mem_new(n_panels, panel_bytes, "panels", &trial->panels));
    memset(trial->panels, 0xa5, n_panels * panel_bytes);
    for (uint32_t i = 0, row = 0; i < n_panels; i++, row += kernel->panel_rows) {
        uint32_t rest = n_rows - row < kernel->panel_rows ? n_rows - row : kernel->panel_rows;
        kernel->pack_panel(trial->panels + i * panel_bytes, p->rows + row * p->row_bytes, rest,
                           p->n_cols);
    }
}

static void pack_tokens(struct trial *trial, const float *x)
{
    const struct problem *p = trial->problem;
    size_t bytes = trial->kernel.x_row_bytes(p->n_cols);
    assert_int_equal(bytes % 64, 0);
    mem_free(trial->x);
    check_ok(mem_new(MAX_TOKENS, bytes, "packed x", &trial->x));
    memset(trial->x, 0xa5, MAX_TOKENS * bytes);
    for (size_t t = 0; t < MAX_TOKENS; t++)
        trial->kernel.pack_x((uint8_t *)trial->x + t * bytes, x + t * p->n_cols, p->n_cols);
}

static const float poison = -7.25e33f;

// Runs the product over panels packed before, in shares of `share_panels`; 0: all at once.
static void run_product(struct trial *trial, uint32_t n_rows, uint32_t n_tokens,
                        uint32_t share_panels, bool has_bias, bool accumulate)
{
    const struct problem *p = trial->problem;
    const struct matmul_kernel *kernel = &trial->kernel;
    uint32_t share_rows = share_panels > 0 ? share_panels * kernel->panel_rows : n_rows;
    size_t stride = n_rows + PAD;
    for (size_t i = 0; i < (size_t)n_tokens * stride + PAD; i++)
        trial->out[i] = accumulate && i % stride >= PAD ? 0.5f : poison;
    for (uint32_t row = 0; row < n_rows; row += share_rows) {
        struct matmul_args args = {
            .panels = trial->panels + row / kernel->panel_rows * kernel->panel_bytes(p->n_cols),
            .n_rows = n_rows - row < share_rows ? n_rows - row : share_rows,
            .n_cols = p->n_cols,
            .n_tokens = n_tokens,
            .x = trial->x,
            .out = trial->out + PAD + row,
            .out_stride = stride,
            .bias = has_bias ? p->bias + row : NULL,
            .accumulate = accumulate,
        };
        kernel->run(&args);
    }
    for (size_t i = 0; i < (size_t)n_tokens * stride + PAD; i++)
        if (i % stride < PAD && trial->out[i] != poison)
            fail_msg("%s %s: wrote outside the result", trial->name, dtype_find(p->type)->name);
}

static float result_at(const struct trial *trial, uint32_t n_rows, uint32_t token, uint32_t row)
{
    return trial->out[PAD + (size_t)token * (n_rows + PAD) + row];
}

static void check_values(const struct trial *trial, uint32_t n_rows, uint32_t n_tokens,
                         bool has_bias, bool accumulate)
{
    const struct problem *p = trial->problem;
    for (uint32_t t = 0; t < n_tokens; t++)
        for (uint32_t r = 0; r < n_rows; r++) {
            double got = (double)result_at(trial, n_rows, t, r);
            double bias = has_bias ? (double)p->bias[r] : 0.0;
            double old = accumulate ? 0.5 : 0.0;
            double want = p->truth[(size_t)t * MAX_ROWS + r] + bias + old;
            double bound = bound_of(trial, t, r, fabs(bias) + old);
            if (!(fabs(got - want) <= bound))
                fail_msg("%s %s: %u columns, %u rows, %u tokens: value [%u, %u] is %.9g, not %.9g; "
                         "off by %.3g, allowed %.3g",
                         trial->name, dtype_find(p->type)->name, p->n_cols, n_rows, n_tokens, t, r,
                         got, want, fabs(got - want), bound);
        }
}

static void check_equals_whole(const struct trial *trial, uint32_t n_rows, uint32_t n_tokens)
{
    for (uint32_t t = 0; t < n_tokens; t++)
        for (uint32_t r = 0; r < n_rows; r++) {
            float got = result_at(trial, n_rows, t, r);
            float want = trial->whole[(size_t)t * MAX_ROWS + r];
            if (memcmp(&got, &want, sizeof got) != 0)
                fail_msg("%s %s: %u columns: value [%u, %u] of %u tokens, %u rows differs from the "
                         "same value of the whole product: %.9g, %.9g",
                         trial->name, dtype_find(trial->problem->type)->name,
                         trial->problem->n_cols, t, r, n_tokens, n_rows, (double)got, (double)want);
        }
}

static void check_shapes(struct trial *trial)
{
    for (size_t i = 0; i < COUNT(row_counts); i++) {
        uint32_t n_rows = row_counts[i];
        pack_rows(trial, n_rows);
        for (size_t j = 0; j < COUNT(token_counts); j++) {
            uint32_t n_tokens = token_counts[j];
            bool is_small = trial->problem->n_cols <= 512;
            if (!is_small && n_rows > 17 && n_tokens != 1 && n_tokens != 13) continue;
            run_product(trial, n_rows, n_tokens, 0, false, false);
            check_equals_whole(trial, n_rows, n_tokens);
        }
        run_product(trial, n_rows, 3, 1, false, false);
        check_equals_whole(trial, n_rows, 3);
        run_product(trial, n_rows, 5, 0, true, false);
        check_values(trial, n_rows, 5, true, false);
        run_product(trial, n_rows, 2, 2, true, true);
        check_values(trial, n_rows, 2, true, true);
    }
}

// A token with NaN or infinity in it has no finite result; the others do not notice.
static void check_wild_tokens(struct trial *trial)
{
    const struct problem *p = trial->problem;
    const float wild[] = {NAN, INFINITY, -INFINITY};
    float *x;
    check_ok(mem_new((size_t)MAX_TOKENS * p->n_cols, sizeof *x, "x", &x));
    memcpy(x, p->x, (size_t)MAX_TOKENS * p->n_cols * sizeof *x);
    x[1 * p->n_cols] = wild[0];
    x[4 * p->n_cols - 1] = wild[1];
    x[6 * p->n_cols + p->n_cols / 2] = wild[2];
    pack_tokens(trial, x);
    run_product(trial, MAX_ROWS, WILD_TOKENS, 0, false, false);
    for (uint32_t t = 0; t < WILD_TOKENS; t++)
        for (uint32_t r = 0; r < MAX_ROWS; r++) {
            float got = result_at(trial, MAX_ROWS, t, r);
            float want = trial->whole[(size_t)t * MAX_ROWS + r];
            bool is_wild = t == 1 || t == 3 || t == 6;
            if (is_wild ? isfinite(got) : memcmp(&got, &want, sizeof got) != 0)
                fail_msg("%s %s: %u columns: value [%u, %u] is %g beside NaN and infinities",
                         trial->name, dtype_find(p->type)->name, p->n_cols, t, r, (double)got);
        }
    mem_free(x);
}

// Row 2 begins with a weight, or a scale, that is not finite.
static void check_wild_weights(struct trial *trial)
{
    const struct problem *p = trial->problem;
    const uint16_t wild_f16 = 0x7e00;
    const uint32_t wild_f32 = 0x7fc00000;
    uint8_t *row = p->rows + 2 * p->row_bytes + (p->type == FATHOM_TYPE_Q6_K ? 208 : 0);
    size_t bytes = p->type == FATHOM_TYPE_F32 ? 4 : 2;
    uint8_t old[4];
    memcpy(old, row, bytes);
    memcpy(row, bytes == 4 ? (const void *)&wild_f32 : (const void *)&wild_f16, bytes);
    if (p->type == FATHOM_TYPE_BF16) memcpy(row, (const uint8_t *)&wild_f32 + 2, 2);
    pack_tokens(trial, p->x);
    pack_rows(trial, MAX_ROWS);
    memcpy(row, old, bytes);
    run_product(trial, MAX_ROWS, WILD_TOKENS, 0, false, false);
    for (uint32_t t = 0; t < WILD_TOKENS; t++)
        for (uint32_t r = 0; r < MAX_ROWS; r++) {
            float got = result_at(trial, MAX_ROWS, t, r);
            float want = trial->whole[(size_t)t * MAX_ROWS + r];
            if (r == 2 ? !isnan(got) : memcmp(&got, &want, sizeof got) != 0)
                fail_msg("%s %s: %u columns: value [%u, %u] is %g with a NaN in row 2", trial->name,
                         dtype_find(p->type)->name, p->n_cols, t, r, (double)got);
        }
}

// With the whole product. False if an earlier variant has the same kernel; else closed with
// close_trial.
static bool open_trial(struct trial *trial, const struct problem *p, uint32_t variant)
{
    size_t n_out = (size_t)MAX_TOKENS * (MAX_ROWS + PAD) + PAD;
    *trial = (struct trial){.problem = p, .name = matmul_variants[variant].name};
    if (!matmul_variant_kernel(variant, p->type, &trial->kernel)) return false;
    check_ok(mem_new(n_out, sizeof *trial->out, "out", &trial->out));
    check_ok(mem_new((size_t)MAX_TOKENS * MAX_ROWS, sizeof *trial->whole, "out", &trial->whole));
    pack_tokens(trial, p->x);
    pack_rows(trial, MAX_ROWS);
    run_product(trial, MAX_ROWS, MAX_TOKENS, 0, false, false);
    for (uint32_t t = 0; t < MAX_TOKENS; t++)
        for (uint32_t r = 0; r < MAX_ROWS; r++)
            trial->whole[(size_t)t * MAX_ROWS + r] = result_at(trial, MAX_ROWS, t, r);
    return true;
}

static void close_trial(struct trial *trial)
{
    mem_free(trial->panels);
    mem_free(trial->x);
    mem_free(trial->out);
    mem_free(trial->whole);
}

static void check_variant(const struct problem *p, uint32_t variant)
{
    struct trial trial;
    if (!open_trial(&trial, p, variant)) return;
    check_values(&trial, MAX_ROWS, MAX_TOKENS, false, false);
    check_shapes(&trial);
    check_wild_tokens(&trial);
    check_wild_weights(&trial);
    close_trial(&trial);
}

// Prompts must not depend on whether the processor has AMX. What is not the whole product equals it
// in either variant.
static void check_amx_equals_vnni(const struct problem *p)
{
    struct trial amx, vnni;
    if (!open_trial(&amx, p, MATMUL_AMX)) return;
    assert_true(open_trial(&vnni, p, MATMUL_VNNI));
    if (memcmp(amx.whole, vnni.whole, sizeof *amx.whole * MAX_TOKENS * MAX_ROWS) != 0)
        fail_msg("%s: %u columns: amx and vnni differ", dtype_find(p->type)->name, p->n_cols);
    close_trial(&amx);
    close_trial(&vnni);
}

static void matches_reference(void **state)
{
    static const uint32_t cols_float[] = {1, 3, 32, 100, 172, 256, 1000, 4096};
    static const uint32_t cols_32[] = {32, 64, 96, 160, 352, 1024, 4096};
    static const uint32_t cols_256[] = {256, 512, 768, 1280, 4096};
    const struct dtype *dtype = *state;
    const uint32_t *cols = cols_float;
    size_t n = COUNT(cols_float);
    if (dtype->block_values == 32) cols = cols_32, n = COUNT(cols_32);
    if (dtype->block_values == 256) cols = cols_256, n = COUNT(cols_256);
    if (check_few()) n--; // the largest, which takes most of the time
    for (size_t i = 0; i < n; i++) {
        struct problem problem;
        problem_open(&problem, dtype->type, cols[i]);
        for (uint32_t v = 0; v < MATMUL_VARIANTS; v++)
            check_variant(&problem, v);
        check_amx_equals_vnni(&problem);
        problem_close(&problem);
    }
}

static int run_bench(const char *type_name)
{
    const struct dtype *dtype = type_name != NULL ? dtype_find_name(type_name) : NULL;
    if (type_name != NULL && dtype == NULL) {
        size_t n;
        const struct dtype *dtypes = dtype_all(&n);
        fprintf(stderr, "no type %s; there are", type_name);
        for (size_t i = 0; i < n; i++)
            fprintf(stderr, " %s", dtypes[i].name);
        fprintf(stderr, "\n");
        return 2;
    }
    return matmul_bench(dtype != NULL ? dtype->type : -1);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return run_bench(argc > 2 ? argv[2] : NULL);
    struct CMUnitTest tests[KERNEL_TYPES] = {0};
    size_t n_types;
    const struct dtype *dtypes = dtype_all(&n_types);
    printf("seed %d\n", SEED);
    for (size_t i = 0; i < n_types; i++) {
        struct dtype *dtype;
        check_ok(mem_new(1, sizeof *dtype, "type", &dtype));
        *dtype = dtypes[i];
        tests[i] = (struct CMUnitTest){dtypes[i].name, matches_reference, NULL, NULL, dtype};
    }
    int result = check_run("matmul", tests, n_types);
    for (size_t i = 0; i < n_types; i++)
        mem_free(tests[i].initial_state);
    return result;
}
