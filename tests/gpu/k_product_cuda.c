// Products of few tokens on the device against sums in double, on the problems of the CPU's check
// (tests/kernels/k_matmul_problem.c): the same weights, tokens, and sums that bounds are made of.
//
// Bounds, u = 2^-24, first order with room to spare; p = sum |x_i| m_i with m_i = |w_i|, or |scale|
// * (quant + zero) + |offset|:
//   a lane sums its share in order and 5 steps add up the lanes: each rounding is of at most p. Of
//   floats a lane has 8 steps for every 256 columns; of quants at most 2 for every 1024, and 4 more
//   roundings for the integer, the scale of x, the product of scales, and the sum of x;
//   the bias and the old value: 4 u of what they and the result are;
//   x in 15 bits: sum e_i |w_i|, where e_i is the rounding error of x_i by the form's public rule;
//   products of scales below FLT_MIN err by 2^-150 and are met by integers below 2^27, four values
//   and more to each: FLT_MIN for each value and each weight, as on the CPU.
// Some tokens lie on the grid of 15 bits, so that nothing but the rounding of f32 is left.

#include "tests/gpu/gpu_rig.h"

#include <float.h>
#include <math.h>

#include "gpu/gpu_grid.h"
#include "gpu/product_cuda.h"
#include "gpu/product_rows.h"
#include "src/base/dtype.h"
#include "src/base/half.h"
#include "src/base/mem.h"
#include "tests/gpu/gpu_bench.h"
#include "tests/kernels/k_matmul.h"

enum { TOKENS = PRODUCT_TOKENS_MAX, X_GAP = 1 };
static const double u = 0x1p-24;

// A problem on the device, and what it gave whole.
struct trial {
    const struct problem *problem;
    uint8_t *packed; // on the host: [MAX_ROWS] rows
    size_t row_bytes;
    uint8_t *dev_weight;
    float *dev_x; // [TOKENS, n_cols], after a gap that leaves it aligned to floats only
    float *dev_bias;
    void *dev_scratch;
    float whole[TOKENS * MAX_ROWS];
};

static const char *type_name(const struct trial *trial)
{
    return dtype_find(trial->problem->type)->name;
}

static void put_tokens(struct trial *trial, const float *x)
{
    const size_t bytes = (size_t)TOKENS * trial->problem->n_cols * sizeof *x;
    gpu_ok(cudaMemcpy(trial->dev_x + X_GAP, x, bytes, cudaMemcpyHostToDevice));
}

static void put_weight(struct trial *trial)
{
    const struct problem *p = trial->problem;
    product_pack_rows(p->type, p->n_cols, p->rows, MAX_ROWS, trial->packed);
    gpu_ok(cudaMemcpy(trial->dev_weight, trial->packed, MAX_ROWS * trial->row_bytes,
                      cudaMemcpyHostToDevice));
}

static void open_trial(struct trial *trial, const struct problem *p)
{
    *trial = (struct trial){.problem = p};
    trial->row_bytes = product_layout_of(p->type, p->n_cols).row_bytes;
    check_ok(mem_new(MAX_ROWS, trial->row_bytes, "packed rows", &trial->packed));
    trial->dev_weight = gpu_new(MAX_ROWS * trial->row_bytes);
    trial->dev_x = gpu_new((X_GAP + (size_t)TOKENS * p->n_cols) * sizeof(float));
    trial->dev_bias = gpu_put(p->bias, MAX_ROWS * sizeof(float));
    trial->dev_scratch = gpu_new(product_scratch_bytes(TOKENS, p->n_cols));
    put_tokens(trial, p->x);
    put_weight(trial);
}

static void close_trial(struct trial *trial)
{
    mem_free(trial->packed);
    gpu_ok(cudaFree(trial->dev_weight));
    gpu_ok(cudaFree(trial->dev_x));
    gpu_ok(cudaFree(trial->dev_bias));
    gpu_ok(cudaFree(trial->dev_scratch));
}

static struct decode_args args_of(const struct trial *trial, uint32_t n_tokens)
{
    return (struct decode_args){.x = trial->dev_x + X_GAP,
                                .scratch = trial->dev_scratch,
                                .n_tokens = n_tokens,
                                .n_cols = trial->problem->n_cols};
}

// The rows from `first` on, with 0.5 in each value of out.
static void add_product(struct decode_args *args, const struct trial *trial, uint32_t first,
                        uint32_t n_rows, bool has_bias)
{
    float old[TOKENS * MAX_ROWS];
    for (size_t i = 0; i < TOKENS * MAX_ROWS; i++)
        old[i] = 0.5f;
    args->products[args->n_products++] = (struct decode_product){
        .weight = trial->dev_weight + first * trial->row_bytes,
        .bias = has_bias ? trial->dev_bias + first : NULL,
        .out = gpu_put(old, (size_t)args->n_tokens * n_rows * sizeof(float)),
        .n_rows = n_rows,
        .type = trial->problem->type,
    };
}

static void take_product(const struct decode_args *args, uint32_t i, float *got)
{
    const struct decode_product *product = &args->products[i];
    gpu_take(got, product->out, (size_t)args->n_tokens * product->n_rows * sizeof(float));
}

static void run_product(struct trial *trial, uint32_t n_rows, uint32_t n_tokens, float *got)
{
    struct decode_args args = args_of(trial, n_tokens);
    add_product(&args, trial, 0, n_rows, false);
    gpu_ok(product_decode_cuda(&args, NULL));
    take_product(&args, 0, got);
}

static double bound_of(const struct problem *p, size_t at, uint32_t row, double other)
{
    const struct product_layout layout = product_layout_of(p->type, p->n_cols);
    const double per_lane = ceil((double)layout.n_groups / 32);
    const bool is_float = layout.group_values == PRODUCT_FLOAT_GROUP;
    const double steps = is_float ? 8 * per_lane + 5 : 2 * per_lane + 5 + 4;
    return steps * u * p->parts[at] + 4 * u * (fabs(p->truth[at]) + other) +
           (is_float ? 0 : p->errors_15[at]) + (double)FLT_MIN * (p->n_cols + p->w_sum[row]);
}

static void check_values(const struct trial *trial, const float *got, uint32_t first,
                         uint32_t n_rows, uint32_t n_tokens, bool has_bias, bool accumulate)
{
    const struct problem *p = trial->problem;
    for (uint32_t t = 0; t < n_tokens; t++)
        for (uint32_t r = 0; r < n_rows; r++) {
            const size_t at = (size_t)t * MAX_ROWS + first + r;
            const double bias = has_bias ? (double)p->bias[first + r] : 0;
            const double old = accumulate ? 0.5 : 0;
            const double want = p->truth[at] + bias + old, value = got[t * n_rows + r];
            const double bound = bound_of(p, at, first + r, fabs(bias) + old);
            if (!(fabs(value - want) <= bound))
                fail_msg("%s: %u columns, %u rows, %u tokens: [%u, %u] is %.9g, not %.9g; off by "
                         "%.3g, allowed %.3g",
                         type_name(trial), p->n_cols, n_rows, n_tokens, t, r, value, want,
                         fabs(value - want), bound);
        }
}

// The same bits as the whole product, but in the tokens or the row that are wild.
static void check_equals_whole(const struct trial *trial, const float *got, uint32_t n_rows,
                               uint32_t n_tokens, uint32_t wild_tokens, int64_t wild_row)
{
    for (uint32_t t = 0; t < n_tokens; t++)
        for (uint32_t r = 0; r < n_rows; r++) {
            const float value = got[t * n_rows + r], want = trial->whole[t * MAX_ROWS + r];
            const bool is_wild = (wild_tokens >> t & 1) != 0 || r == wild_row;
            if (is_wild ? isfinite(value) : memcmp(&value, &want, sizeof value) != 0)
                fail_msg("%s: %u columns: [%u, %u] of %u rows and %u tokens is %.9g, and %.9g in "
                         "the whole product",
                         type_name(trial), trial->problem->n_cols, t, r, n_rows, n_tokens,
                         (double)value, (double)want);
        }
}

static void check_shapes(struct trial *trial)
{
    static const uint32_t shapes[][2] = {{1, 1},  {MAX_ROWS, 1}, {2, 2}, {7, 3},
                                         {33, 5}, {16, 4},       {1, 8}, {17, 7}};
    float got[TOKENS * MAX_ROWS];
    for (size_t i = 0; i < COUNT(shapes); i++) {
        run_product(trial, shapes[i][0], shapes[i][1], got);
        check_equals_whole(trial, got, shapes[i][0], shapes[i][1], 0, -1);
    }
}

// Queries, keys and values with a bias; gate and up added to what is there.
static void check_many(struct trial *trial)
{
    static const uint32_t n_rows[] = {33, 0, 6, 61}; // odd ones too, and at the weight's end
    float got[TOKENS * MAX_ROWS];
    for (uint32_t n_tokens = 1; n_tokens <= 3; n_tokens += 2) {
        struct decode_args args = args_of(trial, n_tokens);
        args.accumulate = n_tokens == 3;
        for (uint32_t i = 0, first = 0; i < COUNT(n_rows); first += n_rows[i++])
            add_product(&args, trial, first, n_rows[i], i != 2);
        gpu_ok(product_decode_cuda(&args, NULL));
        for (uint32_t i = 0, first = 0; i < COUNT(n_rows); first += n_rows[i++]) {
            take_product(&args, i, got);
            check_values(trial, got, first, n_rows[i], n_tokens, i != 2, args.accumulate);
        }
    }
}

// Tokens with NaN or infinity in them have no finite result, and rows with a NaN neither; the
// others do not notice.
static void check_wild(struct trial *trial)
{
    const struct problem *p = trial->problem;
    const uint16_t wild_f16 = 0x7e00, wild_bf16 = 0x7fc0;
    const uint32_t wild_f32 = 0x7fc00000;
    float *x, got[TOKENS * MAX_ROWS];
    uint8_t *row = p->rows + 2 * p->row_bytes + (p->type == FATHOM_TYPE_Q6_K ? 208 : 0), old[4];
    check_ok(mem_new((size_t)TOKENS * p->n_cols, sizeof *x, "x", &x));
    memcpy(x, p->x, (size_t)TOKENS * p->n_cols * sizeof *x);
    x[p->n_cols] = NAN;
    x[4 * p->n_cols - 1] = INFINITY;
    x[6 * p->n_cols + p->n_cols / 2] = -INFINITY;
    put_tokens(trial, x);
    run_product(trial, 33, TOKENS, got);
    check_equals_whole(trial, got, 33, TOKENS, 1 << 1 | 1 << 3 | 1 << 6, -1);
    put_tokens(trial, p->x);
    mem_free(x);
    memcpy(old, row, sizeof old);
    if (p->type == FATHOM_TYPE_F32)
        memcpy(row, &wild_f32, sizeof wild_f32);
    else
        memcpy(row, p->type == FATHOM_TYPE_BF16 ? &wild_bf16 : &wild_f16, sizeof wild_f16);
    put_weight(trial);
    memcpy(row, old, sizeof old);
    run_product(trial, 5, TOKENS, got);
    check_equals_whole(trial, got, 5, TOKENS, 0, 2);
}

static void check_problem(const struct problem *p, const struct emu_mode *mode)
{
    struct trial trial;
    emu_begin(mode);
    open_trial(&trial, p);
    run_product(&trial, MAX_ROWS, TOKENS, trial.whole);
    check_values(&trial, trial.whole, 0, MAX_ROWS, TOKENS, false, false);
    check_shapes(&trial);
    check_many(&trial);
    if (p->n_cols <= 512) check_wild(&trial);
    close_trial(&trial);
    assert_int_equal(emu_end(), 0);
}

// Columns: fewer than a group, whole and broken groups, and more groups than a warp has lanes.
static void matches_reference(void **state)
{
    static const uint32_t cols_float[] = {1, 3, 8, 100, 256, 1003};
    static const uint32_t cols_32[] = {32, 96, 1056};
    static const uint32_t cols_256[] = {256, 1280};
    const struct dtype *dtype = *state;
    const uint32_t *cols = cols_float;
    size_t n = COUNT(cols_float);
    if (dtype->block_values == 32) cols = cols_32, n = COUNT(cols_32);
    if (dtype->block_values == 256) cols = cols_256, n = COUNT(cols_256);
    for (size_t i = 0; i < n; i++) {
        struct problem problem;
        problem_open(&problem, dtype->type, cols[i]);
        for (size_t mode = 0; mode < emu_n_modes; mode++)
            check_problem(&problem, &emu_modes[mode]);
        problem_close(&problem);
    }
}

// ---- Types side by side, and what is refused ----------------------------------------------------

static const int32_t mixed_types[MATMUL_PRODUCTS_MAX] = {FATHOM_TYPE_Q4_K, FATHOM_TYPE_F32,
                                                         FATHOM_TYPE_Q6_K, FATHOM_TYPE_BF16};
enum { MIXED_COLS = 256, MIXED_ROWS = 9, MIXED_TOKENS = 3 };

// Weights of all types above, met by the tokens of the first: each product has the bits that it has
// alone. Of the calls that can fail, the one with the number fails.
static cudaError_t run_mixed(const struct problem *problems, uint64_t *n_calls, bool check)
{
    struct trial trials[MATMUL_PRODUCTS_MAX];
    float alone[MATMUL_PRODUCTS_MAX][TOKENS * MAX_ROWS], got[TOKENS * MAX_ROWS];
    for (uint32_t i = 0; i < MATMUL_PRODUCTS_MAX; i++) {
        open_trial(&trials[i], &problems[i]);
        put_tokens(&trials[i], problems[0].x);
        if (check) run_product(&trials[i], MIXED_ROWS, MIXED_TOKENS, alone[i]);
    }
    struct decode_args args = args_of(&trials[0], MIXED_TOKENS);
    for (uint32_t i = 0; i < MATMUL_PRODUCTS_MAX; i++)
        add_product(&args, &trials[i], 0, MIXED_ROWS, false);
    n_calls[0] = emu_calls();
    const cudaError_t error = product_decode_cuda(&args, NULL);
    n_calls[1] = emu_calls();
    for (uint32_t i = 0; i < MATMUL_PRODUCTS_MAX; i++) {
        const size_t bytes = (size_t)MIXED_TOKENS * MIXED_ROWS * sizeof(float);
        take_product(&args, i, got);
        if (check) assert_memory_equal(got, alone[i], bytes);
        close_trial(&trials[i]);
    }
    return error;
}

static void test_mixed(void **state)
{
    (void)state;
    struct problem problems[MATMUL_PRODUCTS_MAX];
    uint64_t calls[2], unused[2];
    for (uint32_t i = 0; i < MATMUL_PRODUCTS_MAX; i++)
        problem_open(&problems[i], mixed_types[i], MIXED_COLS);
    for (size_t i = 0; i < emu_n_modes; i++) {
        emu_begin(&emu_modes[i]);
        gpu_ok(run_mixed(problems, calls, true));
        assert_int_equal(emu_end(), 0);
    }
    emu_begin(&emu_modes[0]);
    gpu_ok(run_mixed(problems, calls, false));
    assert_int_equal(emu_end(), 0);
    for (uint64_t call = calls[0] + 1; call <= calls[1]; call++) {
        struct emu_mode mode = emu_modes[0];
        mode.fail_call = call;
        emu_begin(&mode);
        assert_int_not_equal(run_mixed(problems, unused, false), cudaSuccess);
        assert_int_equal(emu_end(), 0);
    }
    for (uint32_t i = 0; i < MATMUL_PRODUCTS_MAX; i++)
        problem_close(&problems[i]);
}

static void test_refused(void **state)
{
    (void)state;
    const struct decode_args good = {
        .n_tokens = 1, .n_cols = 32, .n_products = 1, .products = {{.type = FATHOM_TYPE_Q8_0}}};
    struct decode_args bad[] = {good, good, good, good, good, good};
    bad[0].n_tokens = 0;
    bad[1].n_tokens = PRODUCT_TOKENS_MAX + 1;
    bad[2].n_products = 0;
    bad[3].n_products = MATMUL_PRODUCTS_MAX + 1;
    bad[4].products[0].type = 5;
    bad[5].n_cols = 0;
    emu_begin(&emu_modes[0]);
    gpu_ok(product_decode_cuda(&good, NULL)); // no rows
    for (size_t i = 0; i < COUNT(bad); i++)
        assert_int_equal(product_decode_cuda(&bad[i], NULL), cudaErrorInvalidValue);
    assert_int_equal(emu_end(), 0);
}

// More rows than the largest grid has warps for: some get two pairs. A product of one column is
// exact but for its last rounding.
static void test_strides(void **state)
{
    (void)state;
    const uint32_t n_rows = 2 * gpu_grid_warps(SIZE_MAX).blocks[0] * (GPU_VALUE_THREADS / 32) + 9;
    const size_t row_bytes = product_layout_of(FATHOM_TYPE_F16, 1).row_bytes;
    uint8_t *rows = calloc(n_rows, row_bytes);
    float *got = malloc(n_rows * sizeof *got);
    const float x = 1.1f;
    assert_true(rows != NULL && got != NULL);
    for (uint32_t r = 0; r < n_rows; r++)
        memcpy(rows + r * row_bytes, (uint16_t[]){half_from_float((float)r)}, sizeof(uint16_t));
    emu_begin(&emu_modes[0]);
    float *dev_x = gpu_put(&x, sizeof x), *dev_out = gpu_new(n_rows * sizeof *got);
    uint8_t *dev_rows = gpu_put(rows, n_rows * row_bytes);
    void *dev_scratch = gpu_new(product_scratch_bytes(1, 1));
    const struct decode_args args = {
        .x = dev_x,
        .scratch = dev_scratch,
        .n_tokens = 1,
        .n_cols = 1,
        .n_products = 1,
        .products = {{dev_rows, NULL, dev_out, n_rows, FATHOM_TYPE_F16}},
    };
    gpu_ok(product_decode_cuda(&args, NULL));
    gpu_take(got, dev_out, n_rows * sizeof *got);
    for (uint32_t r = 0; r < n_rows; r++)
        if (got[r] != half_to_float(half_from_float((float)r)) * x)
            fail_msg("row %u of %u is %g", r, n_rows, (double)got[r]);
    gpu_ok(cudaFree(dev_x));
    gpu_ok(cudaFree(dev_rows));
    gpu_ok(cudaFree(dev_scratch));
    assert_int_equal(emu_end(), 0);
    free(rows);
    free(got);
}

int main(int argc, char **argv)
{
    struct CMUnitTest tests[KERNEL_TYPES] = {cmocka_unit_test(test_mixed),
                                             cmocka_unit_test(test_refused),
                                             cmocka_unit_test(test_strides)};
    size_t n_types, n_tests = 3;
    const struct dtype *dtypes = dtype_all(&n_types);
    struct dtype copies[KERNEL_TYPES];
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return gpu_bench(argc > 2 ? argv[2] : NULL);
    printf("seed %d\n", SEED);
    for (size_t i = 0; i < n_types; i++) {
        copies[i] = dtypes[i];
        tests[n_tests++] =
            (struct CMUnitTest){dtypes[i].name, matches_reference, NULL, NULL, &copies[i]};
    }
    return gpu_run("k_product_cuda", tests, n_tests);
}
