// Rows stored and partials merged on the device, against the reference in plain C.
//
// Bounds, u = 2^-24. A turned value errs as in k_vector_cuda.c, by 4 u of the greatest value times
// the greatest of the angles; in 16 bits it may then go to the other neighbour. A part's weight in
// a merge: the difference of two lse errs by u of itself, expf by 2 ulp (4 u), the sum of n weights
// by (n + 8) u and the quotient by u, and so do the weighted values.

#include "tests/gpu/gpu_rig.h"

#include <math.h>

#include "cpu/cpu_kernels.h"
#include "fathom/fathom.h"
#include "gpu/attend_cuda.h"
#include "src/base/half.h"
#include "src/base/rng.h"

enum { SEED = 17, COUNT_MAX = 40000 };
static const double u = 0x1p-24;

static struct kernel_table reference(void)
{
    struct kernel_table table;
    cpu_kernels_init(&table, 0);
    return table;
}

static void check_near(const char *what, size_t at, double got, double want, double bound)
{
    if ((isnan(want) && isnan(got)) || got == want || fabs(got - want) <= bound) return;
    fail_msg("%s[%zu] = %.9g, want %.9g +- %.3g", what, at, got, want, bound);
}

// ---- Storing ------------------------------------------------------------------------------------

static size_t value_bytes(int32_t type)
{
    return type == FATHOM_TYPE_F32 ? 4 : 2;
}

static double read_value(int32_t type, const char *at)
{
    float wide;
    uint16_t half;
    if (type == FATHOM_TYPE_F32) return memcpy(&wide, at, sizeof wide), wide;
    memcpy(&half, at, sizeof half);
    return type == FATHOM_TYPE_F16 ? half_to_float(half) : bf16_to_float(half);
}

// What must lie in the rows: `rows` is filled with what is there now.
static void store_reference(const struct store_rows_args *a, const float *x, const float *angles,
                            char *rows)
{
    const struct kernel_table table = reference();
    float turned[256];
    for (uint32_t t = 0; t < a->n_tokens; t++)
        for (uint32_t h = 0; h < a->n_heads; h++) {
            memcpy(turned, x + ((size_t)t * a->n_heads + h) * a->d, a->d * sizeof *x);
            if (angles != NULL)
                table.rope(turned, angles + (size_t)t * a->n_rot, 1, a->d, a->n_rot, a->pairing);
            table.convert(a->type, turned,
                          rows + h * a->head_stride_bytes + (a->row + t) * a->row_bytes, a->d);
        }
}

static void check_rows(const struct store_rows_args *a, const char *got, const char *want,
                       size_t bytes, double slack)
{
    const double ulp = (const double[]){0, 0x1p-10, 0x1p-7}[a->type == FATHOM_TYPE_F32   ? 0
                                                            : a->type == FATHOM_TYPE_F16 ? 1
                                                                                         : 2];
    static bool is_value[4 * COUNT_MAX]; // bytes of the rows that are written
    memset(is_value, 0, bytes);
    for (uint32_t t = 0; t < a->n_tokens; t++)
        for (uint32_t h = 0; h < a->n_heads; h++)
            for (uint32_t i = 0; i < a->d; i++) {
                const size_t at = h * a->head_stride_bytes + (a->row + t) * a->row_bytes +
                                  i * value_bytes(a->type);
                const double value = read_value(a->type, want + at);
                check_near("rows", at, read_value(a->type, got + at), value,
                           slack == 0 ? 0 : slack + ulp * (fabs(value) + slack));
                memset(is_value + at, 1, value_bytes(a->type));
            }
    for (size_t i = 0; i < bytes; i++)
        assert_true(is_value[i] || got[i] == want[i]);
}

static void check_store(struct rng *rng, struct store_rows_args a)
{
    static float x[COUNT_MAX], angles[COUNT_MAX];
    static char want[4 * COUNT_MAX], got[4 * COUNT_MAX];
    const size_t n = (size_t)a.n_tokens * a.n_heads * a.d, n_angles = (size_t)a.n_tokens * a.n_rot;
    const size_t bytes = a.n_heads * a.head_stride_bytes;
    double x_max = 0;
    for (size_t i = 0; i < n; i++) {
        x[i] = rng_normal(rng);
        x_max = fmax(x_max, fabs((double)x[i]));
    }
    const float specials[] = {NAN, INFINITY, -0.0f, 1e6f, 0x1p-25f, 65519.99f, 65520};
    if (n_angles == 0 && n > 20) memcpy(x + 5, specials, sizeof specials);
    for (size_t i = 0; i < n_angles; i++)
        angles[i] = (float)(2 * rng_unit(rng) - 1);
    memset(want, 0x5a, bytes);
    float *dev_x = gpu_put(x, n * sizeof *x);
    float *dev_angles = n_angles == 0 ? NULL : gpu_put(angles, n_angles * sizeof *angles);
    char *dev_rows = gpu_put(want, bytes);
    a.dev_x = dev_x;
    a.dev_cos_sin = dev_angles;
    a.dev_rows = dev_rows;
    struct store_rows_args said = a;
    const bool on_device = rng_below(rng, 2) == 1;
    uint32_t *dev_row = gpu_put(&a.row, sizeof a.row);
    if (on_device) said.row = 1u << 30;
    gpu_ok(store_rows_cuda(&said, on_device ? dev_row : NULL, NULL));
    gpu_take(got, dev_rows, bytes);
    gpu_ok(cudaFree(dev_row));
    gpu_ok(cudaFree(dev_x));
    gpu_ok(cudaFree(dev_angles));
    store_reference(&a, x, n_angles == 0 ? NULL : angles, want);
    check_rows(&a, got, want, bytes, n_angles == 0 ? 0 : 4 * u * x_max);
}

static void run_store(void)
{
    static const int32_t types[] = {FATHOM_TYPE_F32, FATHOM_TYPE_F16, FATHOM_TYPE_BF16};
    static const uint32_t dims[] = {1, 2, 8, 33, 64, 80, 128, 256};
    struct rng rng;
    rng_init(&rng, SEED);
    for (uint32_t n = 0; n < 72; n++) {
        struct store_rows_args a = {
            .n_tokens = rng_below(&rng, 6),
            .n_heads = 1 + rng_below(&rng, 3),
            .d = dims[n % 8],
            .pairing = (int32_t)rng_below(&rng, 3),
            .type = types[n / 8 % 3],
            .row = rng_below(&rng, 4),
        };
        if (n >= 24) a.n_rot = n >= 48 ? a.d / 2 * 2 : a.d / 4 * 2;
        a.row_bytes = (a.d + rng_below(&rng, 4)) * value_bytes(a.type);
        a.head_stride_bytes = 10 * a.row_bytes;
        check_store(&rng, a);
    }
}

// ---- Merging ------------------------------------------------------------------------------------

// Parts lie apart; the result on part 0, if so.
struct merge_case {
    struct merge_args args;
    bool on_part_0;
    float *o, *lse;
    size_t o_count, lse_count;
};

static void check_merged(const struct merge_case *c, const float *o, const float *lse)
{
    const struct merge_args *a = &c->args;
    for (size_t row = 0; row < a->n_rows; row++) {
        double max = -INFINITY, sum = 0, error = (a->n_parts + 20) * u;
        for (uint32_t p = 0; p < a->n_parts; p++)
            max = fmax(max, c->lse[p * a->part_stride_lse + row]);
        for (uint32_t p = 0; p < a->n_parts && max != -INFINITY; p++)
            sum += exp(c->lse[p * a->part_stride_lse + row] - max);
        for (uint32_t i = 0; i < a->d_v; i++) {
            double want = 0, bound = 0;
            for (uint32_t p = 0; p < a->n_parts && sum > 0; p++) {
                const double below = max - c->lse[p * a->part_stride_lse + row];
                const double x = c->o[p * a->part_stride_o + row * a->d_v + i];
                if (below == INFINITY) continue;
                want += exp(-below) / sum * x;
                bound += exp(-below) / sum * fabs(x) * (2 * error + 2 * u * below);
            }
            check_near("o", row * a->d_v + i, o[row * a->d_v + i], want, bound + 0x1p-140);
        }
        const double want_lse = sum == 0 ? -INFINITY : max + log(sum);
        if (lse != NULL)
            check_near("lse", row, lse[row], want_lse, 2 * error + 2 * u * fabs(want_lse));
    }
}

static void check_merge(struct rng *rng, struct merge_case *c)
{
    static float parts[COUNT_MAX], lses[COUNT_MAX], o[COUNT_MAX], lse[COUNT_MAX];
    struct merge_args a = c->args;
    const size_t n = a.n_rows * a.d_v;
    c->o = parts;
    c->lse = lses;
    for (size_t i = 0; i < c->o_count; i++)
        parts[i] = rng_normal(rng);
    for (size_t i = 0; i < c->lse_count; i++)
        lses[i] = rng_below(rng, 4) == 0 ? -INFINITY : 20 * rng_normal(rng);
    float *dev_o = gpu_put(parts, c->o_count * sizeof(float));
    float *dev_lse = gpu_put(lses, c->lse_count * sizeof(float));
    float *dev_out = c->on_part_0 ? dev_o : gpu_new(n * sizeof(float));
    float *dev_out_lse = c->on_part_0 ? dev_lse : NULL;
    a.o = dev_o;
    a.lse = dev_lse;
    a.out_o = dev_out;
    a.out_lse = dev_out_lse;
    gpu_ok(merge_cuda(&a, NULL));
    gpu_get(o, dev_out, n * sizeof(float));
    if (dev_out_lse != NULL) gpu_get(lse, dev_out_lse, a.n_rows * sizeof(float));
    check_merged(c, o, dev_out_lse == NULL ? NULL : lse);
    gpu_ok(cudaFree(dev_o));
    gpu_ok(cudaFree(dev_lse));
    if (!c->on_part_0) gpu_ok(cudaFree(dev_out));
}

static void run_merge(void)
{
    static const uint32_t counts[] = {1, 2, 4, 5, 8, 33, 70}, dims[] = {1, 8, 33, 80, 256};
    struct rng rng;
    rng_init(&rng, SEED + 1);
    for (uint32_t n = 0; n < 35; n++) {
        struct merge_case c = {.on_part_0 = n % 2 == 0};
        struct merge_args *a = &c.args;
        a->n_parts = counts[n % 7];
        a->d_v = dims[n / 7];
        a->n_rows = 1 + rng_below(&rng, a->n_parts < 5 ? 20 : 2);
        a->part_stride_o = a->n_rows * a->d_v + rng_below(&rng, 3);
        a->part_stride_lse = a->n_rows + rng_below(&rng, 3);
        c.o_count = a->n_parts * a->part_stride_o;
        c.lse_count = a->n_parts * a->part_stride_lse;
        check_merge(&rng, &c);
    }
}

// Rows: one part empty, all empty, equal parts, NaN, far apart; few parts and many.
static void run_merge_edges(void)
{
    const float e = -INFINITY;
    for (uint32_t n_parts = 2; n_parts <= 6; n_parts += 4) {
        float lse[6][5] = {{e, e, 1000, NAN, -3e38f}, {5, e, 1000, 1, 3e38f}};
        float o[6][5][2] = {{{NAN, NAN}, {7, 7}, {1, 2}, {1, 1}, {1, 2}},
                            {{3, 4}, {7, 7}, {3, 6}, {1, 1}, {3, 4}}};
        float out[5][2], out_lse[5];
        for (uint32_t p = 2; p < 6; p++)
            for (int row = 0; row < 5; row++)
                lse[p][row] = e;
        float *dev_o = gpu_put(o, sizeof o), *dev_lse = gpu_put(lse, sizeof lse);
        struct merge_args a = {n_parts, 5, 2, dev_o, 10, dev_lse, 5, dev_o, dev_lse};
        gpu_ok(merge_cuda(&a, NULL));
        gpu_get(out, dev_o, sizeof out);
        gpu_get(out_lse, dev_lse, sizeof out_lse);
        const float want[5][2] = {{3, 4}, {0, 0}, {2, 4}, {NAN, NAN}, {3, 4}};
        const float want_lse[5] = {5, e, 1000.6931472f, NAN, 3e38f};
        for (int row = 0; row < 5; row++) {
            for (int i = 0; i < 2; i++)
                check_near("o", (size_t)row, out[row][i], want[row][i], 4 * u * 4);
            check_near("lse", (size_t)row, out_lse[row], want_lse[row], 4 * u * 1000);
        }
        a.out_lse = NULL;
        a.n_parts = 0;
        gpu_ok(merge_cuda(&a, NULL));
        gpu_take(out, dev_o, sizeof out);
        gpu_ok(cudaFree(dev_lse));
        assert_true(out[0][0] == 0 && out[4][1] == 0);
    }
}

GPU_TEST(store)
GPU_TEST(merge)
GPU_TEST(merge_edges)

int main(void)
{
    printf("seed %d\n", SEED);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_store),
        cmocka_unit_test(test_merge),
        cmocka_unit_test(test_merge_edges),
    };
    return gpu_run("k_rows_cuda", tests, sizeof tests / sizeof tests[0]);
}
