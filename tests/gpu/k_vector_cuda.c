// The vector kernels of the device against the reference in plain C, over lists of shapes.
//
// Bounds, u = 2^-24, first order with room to spare: a sum of n positive terms over a block errs by
// as many u as a thread has terms, and 10 more for the tree; expf by 2 u, whatever its argument;
// the other steps by u each. Results below the normal numbers may be off by 2^-149 times what they
// are multiplied with.

#include "tests/gpu/gpu_rig.h"

#include <math.h>

#include "cpu/cpu_kernels.h"
#include "fathom/fathom.h"
#include "gpu/gpu_grid.h"
#include "gpu/vector_cuda.h"
#include "src/base/rng.h"
#include "tests/gpu/gpu_bench.h"

enum { SEED = 12, COUNT_MAX = 5000 };
static const size_t counts[] = {0, 1, 2, 3, 31, 32, 33, 64, 100, 255, 256, 257, 1023, COUNT_MAX};
enum { COUNTS = sizeof counts / sizeof counts[0] };
static const double u = 0x1p-24;

static void check_near(const char *what, size_t n, size_t i, double got, double want, double bound)
{
    if ((isnan(want) && isnan(got)) || got == want) return;
    if (isfinite(want) && fabs(got - want) <= bound)
        return; // a bound may be infinite where want is
    fail_msg("%s of %zu: [%zu] = %.9g, want %.9g +- %.3g", what, n, i, got, want, bound);
}

static void fill(struct rng *rng, float *x, size_t n, float spread)
{
    for (size_t i = 0; i < n; i++)
        x[i] = rng_normal(rng) * spread;
}

static struct kernel_table reference(void)
{
    struct kernel_table table;
    cpu_kernels_init(&table, 0);
    return table;
}

// ---- RMSNorm ------------------------------------------------------------------------------------

struct rows {
    float x[COUNT_MAX], weight[COUNT_MAX], want[COUNT_MAX], got[COUNT_MAX];
};

static void check_rmsnorm(struct rows *rows, size_t n_rows, size_t n_cols, bool in_place)
{
    const struct kernel_table table = reference();
    const size_t n = n_rows * n_cols, row_bytes = n_cols * sizeof(float);
    const float eps = 1e-6f;
    float *dev_x = gpu_put(rows->x, n * sizeof(float));
    float *dev_weight = gpu_put(rows->weight, row_bytes);
    float *dev_out = in_place ? dev_x : gpu_new(n * sizeof(float));
    const struct rmsnorm_args args = {dev_x, dev_weight, dev_out, n_rows, n_cols, eps};
    gpu_ok(rmsnorm_cuda(&args, NULL));
    gpu_get(rows->got, dev_out, n * sizeof(float));
    table.rmsnorm(rows->x, rows->weight, rows->want, n_rows, n_cols, eps);
    const double terms = ceil((double)n_cols / gpu_grid_rows(n_rows, n_cols).threads);
    for (size_t i = 0; i < n; i++)
        check_near("rmsnorm", n_cols, i, rows->got[i], rows->want[i],
                   (terms + 10 + 5) * u * fabs((double)rows->want[i]));
    gpu_ok(cudaFree(dev_x));
    gpu_ok(cudaFree(dev_weight));
    if (!in_place) gpu_ok(cudaFree(dev_out));
}

static void run_rmsnorm(void)
{
    static struct rows rows;
    struct rng rng;
    rng_init(&rng, SEED);
    for (size_t i = 0; i < 2 * COUNTS; i++) {
        const size_t n_cols = counts[i % COUNTS], n_rows = n_cols <= 100 ? 7 : 1;
        fill(&rng, rows.x, n_rows * n_cols, i < COUNTS ? 1 : 1e-4f);
        fill(&rng, rows.weight, n_cols, 1);
        if (i == 4) rows.x[2] = NAN;
        if (i == 5) rows.x[40] = INFINITY;
        check_rmsnorm(&rows, n_rows, n_cols, i % 2 == 0);
    }
}

// ---- Rotary -------------------------------------------------------------------------------------

static double max_of(const float *x, size_t n)
{
    double max = 0;
    for (size_t i = 0; i < n; i++)
        max = fmax(max, fabs((double)x[i]));
    return max;
}

// Two products and a sum: 2 x_max angle_max at most, and 2 u of that, of which the reference's own
// rounding is a part.
static void check_rope(struct rng *rng, const struct rope_args *shape)
{
    static float x[COUNT_MAX], angles[COUNT_MAX], want[COUNT_MAX], got[COUNT_MAX];
    const struct kernel_table table = reference();
    struct rope_args args = *shape;
    const size_t per_token = (size_t)args.n_heads * args.d, n = args.n_tokens * per_token;
    const size_t n_angles = (size_t)args.n_tokens * args.n_rot;
    fill(rng, x, n, 1);
    fill(rng, angles, n_angles, 1);
    const double x_max = max_of(x, n), angle_max = max_of(angles, n_angles);
    if (n > 40) x[37] = NAN;
    float *dev_angles = gpu_put(angles, n_angles * sizeof(float));
    args.x = gpu_put(x, n * sizeof(float));
    args.cos_sin = dev_angles;
    gpu_ok(rope_cuda(&args, NULL));
    gpu_take(got, args.x, n * sizeof(float));
    gpu_ok(cudaFree(dev_angles));
    memcpy(want, x, n * sizeof(float));
    for (size_t t = 0; t < args.n_tokens; t++)
        table.rope(want + t * per_token, angles + t * args.n_rot, args.n_heads, args.d, args.n_rot,
                   args.pairing);
    for (size_t i = 0; i < n; i++)
        check_near("rope", args.n_rot, i, got[i], want[i], 4 * u * x_max * angle_max);
}

static void run_rope(void)
{
    static const uint32_t rots[] = {0, 2, 6, 8, 16, 30, 32, 64, 66, 128};
    struct rng rng;
    rng_init(&rng, SEED);
    for (int32_t pairing = FATHOM_ROPE_NONE; pairing <= FATHOM_ROPE_HALVES; pairing++)
        for (size_t r = 0; r < sizeof rots / sizeof rots[0]; r++) {
            const struct rope_args args = {
                .n_tokens = 1 + rng_below(&rng, 4),
                .n_heads = 1 + rng_below(&rng, 5),
                .d = rots[r] + rng_below(&rng, 20),
                .n_rot = rots[r],
                .pairing = pairing,
            };
            check_rope(&rng, &args);
        }
}

// ---- Activations and sums -----------------------------------------------------------------------

static void check_swiglu(float *gate, float *up, size_t n, int to)
{
    static float want[COUNT_MAX], got[COUNT_MAX];
    const struct kernel_table table = reference();
    float *dev_gate = gpu_put(gate, n * sizeof(float)), *dev_up = gpu_put(up, n * sizeof(float));
    float *dev_out = gpu_new(n * sizeof(float));
    float *dev_to = (float *[]){dev_out, dev_gate, dev_up}[to];
    gpu_ok(swiglu_cuda(dev_gate, dev_up, dev_to, n, NULL));
    gpu_get(got, dev_to, n * sizeof(float));
    gpu_ok(cudaFree(dev_gate));
    gpu_ok(cudaFree(dev_up));
    gpu_ok(cudaFree(dev_out));
    table.swiglu(gate, up, want, n);
    for (size_t i = 0; i < n; i++)
        check_near("swiglu", n, i, got[i], want[i],
                   8 * u * fabs((double)want[i]) + 0x1p-148 * (1 + fabs((double)gate[i] * up[i])));
}

static void run_swiglu(void)
{
    static float gate[COUNT_MAX], up[COUNT_MAX];
    struct rng rng;
    rng_init(&rng, SEED);
    for (size_t i = 0; i < 3 * COUNTS; i++) {
        const size_t n = counts[i % COUNTS];
        fill(&rng, gate, n, (const float[]){1, 8, 60}[i / COUNTS]);
        fill(&rng, up, n, 1);
        if (n > 8) {
            const float specials[] = {0, -0.0f, INFINITY, -INFINITY, NAN, -88.8f, 88.8f, -104};
            memcpy(gate, specials, sizeof specials);
        }
        if (n > 9) up[9] = NAN;
        check_swiglu(gate, up, n, (int)(i / COUNTS));
    }
}

// x [n_rows, n_cols] and y [n_cols].
static void check_add(const float *x, const float *y, float *got, size_t n_rows, size_t n_cols)
{
    const size_t n = n_rows * n_cols;
    float *dev_x = gpu_put(x, n * sizeof(float)), *dev_y = gpu_put(y, n_cols * sizeof(float));
    gpu_ok(add_cuda(dev_x, dev_y, n_rows, n_cols, NULL));
    gpu_take(got, dev_x, n * sizeof(float));
    gpu_ok(cudaFree(dev_y));
    for (size_t i = 0; i < n; i++)
        check_near("add", n, i, got[i], x[i] + y[i % n_cols], 0);
}

static void run_add(void)
{
    static float x[3 * COUNT_MAX], y[COUNT_MAX], got[3 * COUNT_MAX];
    struct rng rng;
    rng_init(&rng, SEED);
    for (size_t i = 0; i < COUNTS; i++) {
        fill(&rng, x, 3 * counts[i], 1);
        fill(&rng, y, counts[i], 1);
        check_add(x, y, got, 1 + i % 3, counts[i]);
    }
}

GPU_TEST(rmsnorm)
GPU_TEST(rope)
GPU_TEST(swiglu)
GPU_TEST(add)

// More rows than the largest grid has blocks, more values than it has threads: some get two. The
// others are right, as above; of these the last is looked at.
static void test_strides(void **state)
{
    (void)state;
    static struct rows rows;
    struct rng rng;
    const uint32_t n = gpu_grid_values(SIZE_MAX).blocks[0] * GPU_VALUE_THREADS + 1000;
    float *x = calloc(2 * n, sizeof *x), *got = malloc(n * sizeof *got), last[2];
    assert_true(x != NULL && got != NULL);
    assert_true(gpu_grid_rows(COUNT_MAX, 1).blocks[0] < COUNT_MAX);
    rng_init(&rng, SEED);
    fill(&rng, rows.x, COUNT_MAX, 1);
    fill(&rng, rows.weight, 1, 1);
    fill(&rng, x + n - 2, 4, 1);
    fill(&rng, x + 2 * n - 2, 2, 1);
    emu_begin(&emu_modes[0]);
    check_rmsnorm(&rows, COUNT_MAX, 1, true);
    check_add(x, x, got, n, 1);
    float *dev_x = gpu_put(x, 2 * n * sizeof *x), *dev_angle = gpu_put((float[]){0, 1}, 8);
    gpu_ok(swiglu_cuda(dev_x, dev_x, dev_x, n, NULL));
    gpu_get(last, dev_x + n - 1, sizeof last);
    const double gate = x[n - 1], want = gate / (1 + exp(-gate)) * gate;
    check_near("swiglu", n, n - 1, last[0], want, 8 * u * fabs(want));
    assert_true(last[1] == x[n]);
    gpu_ok(cudaMemcpy(dev_x, x, 2 * n * sizeof *x, cudaMemcpyHostToDevice));
    const struct rope_args args = {dev_x, dev_angle, 1, n, 2, 2, FATHOM_ROPE_ADJACENT};
    gpu_ok(rope_cuda(&args, NULL)); // a quarter of a turn
    gpu_get(last, dev_x + 2 * n - 2, sizeof last);
    assert_true(last[0] == -x[2 * n - 1] && last[1] == x[2 * n - 2]);
    gpu_ok(cudaFree(dev_x));
    gpu_ok(cudaFree(dev_angle));
    assert_int_equal(emu_end(), 0);
    free(x);
    free(got);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return gpu_bench(argc > 2 ? argv[2] : NULL);
    printf("seed %d\n", SEED);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rmsnorm), cmocka_unit_test(test_rope),
        cmocka_unit_test(test_swiglu),  cmocka_unit_test(test_add),
        cmocka_unit_test(test_strides),
    };
    return gpu_run("k_vector_cuda", tests, sizeof tests / sizeof tests[0]);
}
