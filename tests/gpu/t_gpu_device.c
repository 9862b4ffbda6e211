// The CUDA device behind its contracts (src/iface/device.h, linear.h): memory and the order of
// copies, products of few and many tokens, rows of a cache. What kernels compute is checked beside
// each of them; here, that the device gives them the right things.

#include "tests/gpu/device_rig.h"

#include <math.h>
#include <string.h>

#include "fathom/fathom.h"
#include "src/base/mem.h"
#include "src/iface/kernels.h"
#include "src/iface/linear.h"
#include "tests/gpu/gpu_bench.h"
#include "tests/kernels/k_matmul.h"

// ---- Memory -------------------------------------------------------------------------------------

static uint8_t *new_bytes(size_t n, uint32_t seed)
{
    uint8_t *bytes;
    struct rng rng;
    rng_init(&rng, seed);
    check_ok(mem_new(n, 1, "bytes", &bytes));
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)rng_u64(&rng);
    return bytes;
}

// Of less than a stage, of several, and of more than the ring.
static void run_copies(void)
{
    static const size_t sizes[] = {1, 1000, (600 << 10) + 7, (1300 << 10) + 1};
    fathom_device *device = gpu_rig_open();
    const struct device_ops *ops = device->ops;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        const size_t n = sizes[i];
        uint8_t *sent = new_bytes(n, (uint32_t)i), *host = new_bytes(n, (uint32_t)i);
        uint8_t *got = new_bytes(n, 99);
        void *dev;
        check_ok(ops->alloc(device, n, "bytes", &dev));
        assert_int_equal((uintptr_t)dev % 64, 0);
        check_ok(ops->download(device, got, dev, n));
        for (size_t byte = 0; byte < n; byte++)
            assert_int_equal(got[byte], 0);
        check_ok(ops->upload(device, dev, host, n));
        memset(host, 0, n); // its own again
        check_ok(ops->download(device, got, dev, n));
        assert_memory_equal(got, sent, n);
        ops->release(device, dev, n);
        mem_free(sent);
        mem_free(host);
        mem_free(got);
    }
    check_ok(ops->sync(device));
    ops->close(device);
}

// Over itself in both directions, by less and by more than a piece.
static void run_moves(void)
{
    enum { BYTES = 5 << 20 };
    static const struct {
        size_t to, from, n;
    } moves[] = {{0, 64, BYTES - 64}, {64, 0, BYTES - 64},   {0, 3 << 20, 2 << 20},
                 {7, 5, 100},         {1 << 20, 0, 4 << 20}, {9, 9, 50}};
    fathom_device *device = gpu_rig_open();
    uint8_t *want = new_bytes(BYTES, 1), *got = new_bytes(BYTES, 2);
    void *dev;
    check_ok(device->ops->alloc(device, BYTES, "bytes", &dev));
    check_ok(device->ops->upload(device, dev, want, BYTES));
    for (size_t i = 0; i < COUNT(moves); i++) {
        memmove(want + moves[i].to, want + moves[i].from, moves[i].n);
        device->ops->move(device, (uint8_t *)dev + moves[i].to, (uint8_t *)dev + moves[i].from,
                          moves[i].n);
    }
    check_ok(device->ops->download(device, got, dev, BYTES));
    assert_memory_equal(got, want, BYTES);
    device->ops->release(device, dev, BYTES);
    mem_free(want);
    mem_free(got);
    device->ops->close(device);
}

static void run_no_memory(void)
{
    const size_t too_many = (size_t)1 << 44;
    fathom_device *device = gpu_rig_open();
    void *dev;
    assert_true(device->ops->free_bytes(device) > 0);
    check_error(device->ops->alloc(device, too_many, "keys and values", &dev), FATHOM_ENOMEM,
                "keys and values: 16777216.00 MiB of GPU memory are needed, and ");
    assert_non_null(strstr(fathom_last_error(), "take a smaller context (-c)"));
    // That is all that happened.
    check_ok(device->ops->alloc(device, 100, "values", &dev));
    device->ops->release(device, dev, 100);
    device->ops->release(device, NULL, 100);
    check_ok(device->ops->sync(device));
    device->ops->close(device);
}

// ---- Products -----------------------------------------------------------------------------------

enum { N_COLS = 256, N_ROWS = 70, N_TOKENS = 30, N_PRODUCTS = 4 };

// Weights of several types, as floats too, and what is multiplied with them.
struct products {
    int32_t types[N_PRODUCTS];
    uint32_t n_rows[N_PRODUCTS];
    struct weight *weights[N_PRODUCTS];
    float w[N_PRODUCTS][N_ROWS * N_COLS];
    float x[N_TOKENS * N_COLS];
    float bias[N_ROWS];
    float before[N_TOKENS * N_ROWS];
};

// in_ram: every other one stays in the host's memory.
static void open_products(fathom_device *device, struct products *p, bool in_ram)
{
    static uint8_t rows[N_ROWS * N_COLS * sizeof(float)];
    struct rng rng;
    rng_init(&rng, SEED);
    for (size_t i = 0; i < N_PRODUCTS; i++) {
        const struct weight_desc desc = {"w",    p->types[i], p->n_rows[i],
                                         N_COLS, rows,        in_ram && i % 2 == 1};
        problem_random_rows(p->types[i], rows, p->n_rows[i], N_COLS, &rng);
        device->kernels->dequant_row(p->types[i], rows, p->w[i], (size_t)p->n_rows[i] * N_COLS);
        check_ok(device->linear->weight_open(device, &desc, &p->weights[i]));
        memset(rows, 0xff, sizeof rows); // they need not outlive the call
    }
    for (size_t i = 0; i < COUNT(p->x); i++)
        p->x[i] = rng_normal(&rng);
    for (size_t i = 0; i < COUNT(p->bias); i++)
        p->bias[i] = rng_normal(&rng);
    for (size_t i = 0; i < COUNT(p->before); i++)
        p->before[i] = rng_normal(&rng);
}

// share: what an output may be off by, of the sum of the products' sizes.
static void check_product(const struct products *p, size_t i, const float *got, uint32_t n_tokens,
                          bool bias, bool accumulate, double share)
{
    for (uint32_t t = 0; t < n_tokens; t++)
        for (uint32_t r = 0; r < p->n_rows[i]; r++) {
            const size_t at = (size_t)t * p->n_rows[i] + r;
            double want = 0, parts = 0;
            for (uint32_t c = 0; c < N_COLS; c++) {
                const double part = (double)p->x[t * N_COLS + c] * (double)p->w[i][r * N_COLS + c];
                want += part;
                parts += fabs(part);
            }
            if (bias) want += (double)p->bias[r];
            if (accumulate) want += (double)p->before[at];
            const double error = fabs((double)got[at] - want), bound = share * parts + 1e-6;
            if (!(error <= bound))
                fail_msg("product %zu, %u tokens, token %u, row %u: %g, not %g", i, n_tokens, t, r,
                         (double)got[at], want);
        }
}

static void check_products(fathom_device *device, struct products *p, uint32_t n_tokens, bool bias,
                           bool accumulate)
{
    static float got[N_TOKENS * N_ROWS];
    float *dev_x = gpu_rig_put(device, p->x, (size_t)n_tokens * N_COLS);
    float *dev_bias = gpu_rig_put(device, p->bias, N_ROWS);
    struct matmul_many_args args = {
        .dev_x = dev_x, .n_tokens = n_tokens, .n_products = N_PRODUCTS, .accumulate = accumulate};
    for (size_t i = 0; i < N_PRODUCTS; i++)
        args.products[i] =
            (struct product){p->weights[i], bias ? dev_bias : NULL,
                             gpu_rig_put(device, p->before, (size_t)n_tokens * p->n_rows[i])};
    check_ok(device->linear->matmul(device, &args));
    for (size_t i = 0; i < N_PRODUCTS; i++) {
        // Activations of 15 bits for groups of 32, or both sides as bf16.
        const bool f32 = p->types[i] == FATHOM_TYPE_F32;
        const double share = f32 ? 1e-6 : n_tokens <= 8 ? 0x1p-12 : 0x1p-7;
        gpu_rig_take(device, got, args.products[i].dev_out, (size_t)n_tokens * p->n_rows[i]);
        check_product(p, i, got, n_tokens, bias, accumulate, share);
    }
    device->ops->release(device, dev_x, n_tokens * N_COLS * sizeof(float));
    device->ops->release(device, dev_bias, sizeof p->bias);
}

static void check_types(const int32_t *types, bool in_ram)
{
    static struct products p;
    fathom_device *device = gpu_rig_open();
    for (size_t i = 0; i < N_PRODUCTS; i++) {
        p.types[i] = types[i];
        p.n_rows[i] = N_ROWS - 23 * (uint32_t)i;
    }
    open_products(device, &p, in_ram);
    if (in_ram) {
        // For which there is no room, which harms no other.
        const struct weight_desc huge = {"w", FATHOM_TYPE_F32, 1u << 30, N_COLS, NULL, true};
        struct weight *none = NULL;
        check_error(device->linear->weight_open(device, &huge, &none), FATHOM_ENOMEM,
                    "weights that come from RAM: 1048576.00 MiB of GPU memory are needed");
    }
    check_products(device, &p, 1, false, false);
    check_products(device, &p, 8, true, true);
    check_products(device, &p, 9, true, false);
    check_products(device, &p, N_TOKENS, false, true);
    for (size_t i = 0; i < N_PRODUCTS; i++)
        device->linear->weight_close(device, &p.weights[i]);
    assert_null(p.weights[0]);
    device->ops->close(device);
}

static void run_products(void)
{
    const int32_t alike[] = {FATHOM_TYPE_F32, FATHOM_TYPE_F32, FATHOM_TYPE_F32, FATHOM_TYPE_F32};
    const int32_t mixed[] = {FATHOM_TYPE_Q4_K, FATHOM_TYPE_F16, FATHOM_TYPE_BF16, FATHOM_TYPE_F32};
    check_types(alike, false);
    check_types(mixed, false);
    check_types(mixed, true);
}

// ---- The rest of the forward pass ---------------------------------------------------------------

// More rows than a stage holds, in any order.
static void run_embed(void)
{
    enum { COLS = 256, ROWS = 50, IDS = 700 };
    static uint8_t rows[ROWS * COLS * sizeof(float)];
    static float want[COLS], got[IDS * COLS];
    int32_t ids[IDS];
    struct rng rng;
    struct weight *table;
    fathom_device *device = gpu_rig_open();
    const struct weight_desc desc = {"table", FATHOM_TYPE_Q6_K, ROWS, COLS, rows, false};
    rng_init(&rng, SEED);
    problem_random_rows(FATHOM_TYPE_Q6_K, rows, ROWS, COLS, &rng);
    check_ok(device->linear->table_open(device, &desc, &table));
    for (int i = 0; i < IDS; i++)
        ids[i] = (int32_t)rng_below(&rng, ROWS);
    float *dev = gpu_rig_put(device, got, IDS * COLS);
    check_ok(device->linear->embed(device, table, ids, IDS, dev));
    gpu_rig_take(device, got, dev, IDS * COLS);
    for (int i = 0; i < IDS; i++) {
        device->kernels->dequant_row(FATHOM_TYPE_Q6_K, rows + ids[i] * (COLS / 256 * 210), want,
                                     COLS);
        assert_memory_equal(got + i * COLS, want, sizeof want);
    }
    device->linear->weight_close(device, &table);
    device->ops->close(device);
}

static void check_close(const float *got, const float *want, size_t n, double bound)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - (double)want[i]) <= bound))
            fail_msg("value %zu: %g, not %g", i, (double)got[i], (double)want[i]);
}

static void run_vectors(void)
{
    enum { ROWS = 3, COLS = 100, N = ROWS * COLS };
    static float x[N], weight[COLS], want[N], got[N];
    struct rng rng;
    fathom_device *device = gpu_rig_open();
    rng_init(&rng, SEED);
    for (size_t i = 0; i < N; i++)
        x[i] = rng_normal(&rng);
    memcpy(weight, x + COLS, sizeof weight);
    float *dev_x = gpu_rig_put(device, x, N), *dev_weight = gpu_rig_put(device, weight, COLS);
    float *dev_out = gpu_rig_put(device, want, N);
    check_ok(device->linear->rmsnorm(device, dev_x, dev_weight, dev_out, ROWS, COLS, 1e-5f));
    device->kernels->rmsnorm(x, weight, want, ROWS, COLS, 1e-5f);
    check_ok(device->ops->download(device, got, dev_out, sizeof got));
    check_close(got, want, N, 1e-5);
    check_ok(device->linear->swiglu(device, dev_x, dev_out, dev_out, N));
    device->kernels->swiglu(x, want, want, N);
    gpu_rig_take(device, got, dev_out, N);
    check_close(got, want, N, 1e-5);
    device->ops->release(device, dev_x, sizeof x);
    device->ops->release(device, dev_weight, sizeof weight);
    device->ops->close(device);
}

// ---- Rows of a cache ----------------------------------------------------------------------------

enum { HEADS = 4, KV_HEADS = 2, D = 32, KEYS = 40, STEP = 3, ROT = 16 };

// Stores KEYS rows in two steps and lets the last STEP tokens attend to them: out and lse behind
// it.
static void attend(fathom_device *device, const float *kv, const float *q, const float *cos_sin,
                   float *out)
{
    enum { ROW_BYTES = D * 2, STRIP_BYTES = KEYS * ROW_BYTES };
    void *dev_rows;
    float *dev_kv = gpu_rig_put(device, kv, KEYS * KV_HEADS * D);
    float *dev_q = gpu_rig_put(device, q, STEP * HEADS * D);
    float *dev_cos_sin = gpu_rig_put(device, cos_sin, KEYS * ROT);
    float *dev_out = gpu_rig_put(device, out, STEP * HEADS * (D + 1));
    check_ok(device->ops->alloc(device, KV_HEADS * STRIP_BYTES, "rows", &dev_rows));
    for (uint32_t row = 0; row < KEYS; row += KEYS / 2) {
        const struct store_rows_args store = {.dev_x = dev_kv + row * KV_HEADS * D,
                                              .n_tokens = KEYS / 2,
                                              .n_heads = KV_HEADS,
                                              .d = D,
                                              .dev_cos_sin = dev_cos_sin + row * ROT,
                                              .n_rot = ROT,
                                              .pairing = FATHOM_ROPE_HALVES,
                                              .type = FATHOM_TYPE_F16,
                                              .dev_rows = dev_rows,
                                              .head_stride_bytes = STRIP_BYTES,
                                              .row_bytes = ROW_BYTES,
                                              .row = row};
        check_ok(device->ops->store_rows(device, &store));
    }
    const struct dense_attend_args args = {.dev_q = dev_q,
                                           .n_tokens = STEP,
                                           .n_heads = HEADS,
                                           .n_kv_heads = KV_HEADS,
                                           .d_k = D,
                                           .d_v = D,
                                           .dev_cos_sin = dev_cos_sin + (KEYS - STEP) * ROT,
                                           .n_rot = ROT,
                                           .pairing = FATHOM_ROPE_HALVES,
                                           .kv_type = FATHOM_TYPE_F16,
                                           .dev_k = dev_rows,
                                           .k_head_stride_bytes = STRIP_BYTES,
                                           .k_row_bytes = ROW_BYTES,
                                           .dev_v = dev_rows,
                                           .v_head_stride_bytes = STRIP_BYTES,
                                           .v_row_bytes = ROW_BYTES,
                                           .n_keys = KEYS,
                                           .n_window = 30,
                                           .scale = 0.2f,
                                           .dev_out = dev_out,
                                           .dev_lse = dev_out + STEP * HEADS * D};
    check_ok(device->ops->attend_dense(device, &args));
    gpu_rig_take(device, out, dev_out, STEP * HEADS * (D + 1));
    device->ops->release(device, dev_kv, KEYS * KV_HEADS * D * sizeof *kv);
    device->ops->release(device, dev_q, STEP * HEADS * D * sizeof *q);
    device->ops->release(device, dev_cos_sin, KEYS * ROT * sizeof *cos_sin);
    device->ops->release(device, dev_rows, KV_HEADS * STRIP_BYTES);
}

static void run_rows(void)
{
    static float kv[KEYS * KV_HEADS * D], q[STEP * HEADS * D], cos_sin[KEYS * ROT];
    static float want[STEP * HEADS * (D + 1)], got[STEP * HEADS * (D + 1)];
    struct rng rng;
    rng_init(&rng, SEED);
    for (size_t i = 0; i < COUNT(kv); i++)
        kv[i] = rng_normal(&rng);
    for (size_t i = 0; i < COUNT(q); i++)
        q[i] = rng_normal(&rng);
    for (size_t i = 0; i < COUNT(cos_sin); i++)
        cos_sin[i] = i % 2 == 0 ? cosf((float)i) : sinf((float)(i - 1));
    fathom_device *host = gpu_rig_host(NULL, NULL), *device = gpu_rig_open();
    attend(host, kv, q, cos_sin, want);
    attend(device, kv, q, cos_sin, got);
    check_close(got, want, COUNT(got), 2e-3);
    host->ops->close(host);
    device->ops->close(device);
}

GPU_TEST(copies)
GPU_TEST(moves)
GPU_TEST(no_memory)
GPU_TEST(products)
GPU_TEST(embed)
GPU_TEST(vectors)
GPU_TEST(rows)

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return gpu_bench(argc > 2 ? argv[2] : NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copies),    cmocka_unit_test(test_moves),
        cmocka_unit_test(test_no_memory), cmocka_unit_test(test_products),
        cmocka_unit_test(test_embed),     cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_rows),
    };
    return gpu_run("gpu_device", tests, sizeof tests / sizeof *tests);
}
