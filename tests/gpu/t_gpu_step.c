// Steps that come again, as CUDA graphs (gpu/gpu_step.h): the same bits as operation by operation,
// whatever comes between them. And the order with streams of the caller's.

#include "tests/gpu/device_rig.h"

#include <math.h>
#include <string.h>

#include "fathom/fathom.h"
#include "src/base/rng.h"
#include "src/iface/linear.h"

enum { D = 32, HEADS = 2, ROWS = 200, VALUES = HEADS * D };

// A cache of one KV head, and the vectors of a step.
struct rig {
    fathom_device *device;
    struct weight *weight;
    uint16_t *dev_rows[2]; // of two sequences: keys, then values
    float *dev_x, *dev_y, *dev_norm;
};

static void open_rig(struct rig *rig)
{
    static float weights[VALUES * VALUES], norm[VALUES];
    struct rng rng;
    void *dev;
    const struct weight_desc desc = {"w", FATHOM_TYPE_F32, VALUES, VALUES, weights, false};
    rng_init(&rng, 5);
    for (size_t i = 0; i < VALUES * VALUES; i++)
        weights[i] = rng_normal(&rng) / 8;
    for (size_t i = 0; i < VALUES; i++)
        norm[i] = 1 + rng_normal(&rng) / 8;
    rig->device = gpu_rig_open();
    check_ok(rig->device->linear->weight_open(rig->device, &desc, &rig->weight));
    for (size_t s = 0; s < 2; s++) {
        check_ok(
            rig->device->ops->alloc(rig->device, 2 * ROWS * D * sizeof(uint16_t), "rows", &dev));
        rig->dev_rows[s] = dev;
    }
    rig->dev_x = gpu_rig_put(rig->device, norm, VALUES);
    rig->dev_y = gpu_rig_put(rig->device, norm, VALUES);
    rig->dev_norm = gpu_rig_put(rig->device, norm, VALUES);
}

static void close_rig(struct rig *rig)
{
    const struct device_ops *ops = rig->device->ops;
    rig->device->linear->weight_close(rig->device, &rig->weight);
    for (size_t s = 0; s < 2; s++)
        ops->release(rig->device, rig->dev_rows[s], 0);
    ops->release(rig->device, rig->dev_x, 0);
    ops->release(rig->device, rig->dev_y, 0);
    ops->release(rig->device, rig->dev_norm, 0);
    ops->close(rig->device);
}

// The operations of a layer, of token `row` of a sequence; what comes out is in dev_x.
static void ask(const struct rig *rig, uint32_t s, uint32_t row)
{
    const struct device_ops *ops = rig->device->ops;
    const struct linear_ops *linear = rig->device->linear;
    struct store_rows_args store = {.dev_x = rig->dev_x,
                                    .n_tokens = 1,
                                    .n_heads = 1,
                                    .d = D,
                                    .type = FATHOM_TYPE_F16,
                                    .dev_rows = rig->dev_rows[s],
                                    .head_stride_bytes = ROWS * D * 2,
                                    .row_bytes = D * 2,
                                    .row = row};
    const struct dense_attend_args attend = {.dev_q = rig->dev_x,
                                             .n_tokens = 1,
                                             .n_heads = HEADS,
                                             .n_kv_heads = 1,
                                             .d_k = D,
                                             .d_v = D,
                                             .kv_type = FATHOM_TYPE_F16,
                                             .dev_k = rig->dev_rows[s],
                                             .k_row_bytes = D * 2,
                                             .dev_v = rig->dev_rows[s] + ROWS * D,
                                             .v_row_bytes = D * 2,
                                             .n_keys = row + 1,
                                             .n_window = 150,
                                             .scale = 1,
                                             .dev_out = rig->dev_y};
    const struct matmul_many_args product = {.dev_x = rig->dev_y,
                                             .n_tokens = 1,
                                             .n_products = 1,
                                             .accumulate = true,
                                             .products = {{rig->weight, NULL, rig->dev_x}}};
    check_ok(ops->store_rows(rig->device, &store));
    store.dev_x += D;
    store.dev_rows = rig->dev_rows[s] + ROWS * D;
    check_ok(ops->store_rows(rig->device, &store));
    check_ok(ops->attend_dense(rig->device, &attend));
    check_ok(linear->matmul(rig->device, &product));
    check_ok(linear->rmsnorm(rig->device, rig->dev_x, rig->dev_norm, rig->dev_x, 1, VALUES, 1e-5f));
    check_ok(linear->swiglu(rig->device, rig->dev_x, rig->dev_y, rig->dev_x, VALUES));
}

// A token: its values, and two layers.
static void step(const struct rig *rig, uint32_t s, uint32_t row, bool as_step, float *out)
{
    const struct device_ops *ops = rig->device->ops;
    float x[VALUES];
    for (uint32_t i = 0; i < VALUES; i++)
        x[i] = sinf((float)(row * VALUES + i));
    if (as_step) ops->step_begin(rig->device);
    check_ok(ops->upload(rig->device, rig->dev_x, x, sizeof x));
    ask(rig, s, row);
    ask(rig, s, row);
    check_ok(ops->download(rig->device, out, rig->dev_x, sizeof x));
    if (as_step) ops->step_end(rig->device);
}

static void step_both(const struct rig *want, const struct rig *got, uint32_t s, uint32_t row)
{
    float a[VALUES], b[VALUES];
    step(want, s, row, false, a);
    step(got, s, row, true, b);
    for (size_t i = 0; i < VALUES; i++)
        if (!(a[i] == b[i])) // not NaN, either
            fail_msg("sequence %u, row %u, value %zu: %g, not %g", s, row, i, (double)b[i],
                     (double)a[i]);
}

// Alike, and beyond the reach of a launch: 64 and 128 keys.
static void run_alike(void)
{
    struct rig want, got;
    open_rig(&want);
    open_rig(&got);
    for (uint32_t row = 0; row < 4; row++)
        step_both(&want, &got, 0, row);
    assert_true(emu_graph_launches() >= 3); // all but the first
    for (uint32_t row = 60; row < 68; row++)
        step_both(&want, &got, 0, row);
    for (uint32_t row = 126; row < 131; row++)
        step_both(&want, &got, 0, row);
    assert_true(emu_graph_launches() >= 3 + 6 + 3);
    close_rig(&want);
    close_rig(&got);
}

// What comes between steps: another sequence, memory that is given back, a step that fails, one
// that is looked into, operations that are no step's.
static void run_unlike(void)
{
    struct rig want, got;
    float out[VALUES];
    open_rig(&want);
    open_rig(&got);
    const struct device_ops *ops = got.device->ops;
    for (uint32_t row = 0; row < 3; row++) {
        step_both(&want, &got, 0, row);
        step_both(&want, &got, 1, row);
    }
    for (uint32_t row = 3; row < 15; row++) {
        if (row == 6) ops->release(got.device, gpu_rig_put(got.device, out, 1), 0);
        if (row == 8) {
            ops->step_begin(got.device);
            ask(&got, 0, 2); // would spoil that row
            ops->step_end(got.device);
        }
        if (row == 10) {
            ops->step_begin(got.device);
            ask(&got, 1, 0);
            check_ok(ops->download(got.device, out, got.dev_x, sizeof out));
            ask(&got, 1, 0);
            check_ok(ops->sync(got.device));
            ops->step_end(got.device);
        }
        if (row == 12) ask(&got, 1, 0);
        step_both(&want, &got, 0, row);
    }
    close_rig(&want);
    close_rig(&got);
}

GPU_TEST(alike)
GPU_TEST(unlike)

// ---- Streams of the caller's
// ---------------------------------------------------------------------

// A stream of the caller's writes what the device moves, and reads where it moved that to.
static void run_streams(void)
{
    enum { BYTES = 3000, TIMES = 3 };
    fathom_device *device = gpu_rig_open();
    cudaStream_t stream = gpu_new_stream();
    char *pinned, *dev_from = gpu_new(BYTES), *dev_to = gpu_new(BYTES);
    gpu_ok(cudaMallocHost((void **)&pinned, 2 * TIMES * BYTES));
    for (int i = 0; i < TIMES; i++) {
        memset(pinned + i * BYTES, 'a' + i, BYTES);
        gpu_ok(
            cudaMemcpyAsync(dev_from, pinned + i * BYTES, BYTES, cudaMemcpyHostToDevice, stream));
        check_ok(fathom_device_wait_stream(device, stream));
        device->ops->move(device, dev_to, dev_from, BYTES);
        check_ok(fathom_stream_wait_device(device, stream));
        gpu_ok(cudaMemcpyAsync(pinned + (TIMES + i) * BYTES, dev_to, BYTES, cudaMemcpyDeviceToHost,
                               stream));
    }
    gpu_ok(cudaStreamSynchronize(stream));
    assert_memory_equal(pinned + TIMES * BYTES, pinned, TIMES * BYTES);
    gpu_ok(cudaFreeHost(pinned));
    gpu_ok(cudaFree(dev_from));
    gpu_ok(cudaFree(dev_to));
    gpu_ok(cudaStreamDestroy(stream));
    device->ops->close(device);
}

GPU_TEST(streams)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alike),
        cmocka_unit_test(test_unlike),
        cmocka_unit_test(test_streams),
    };
    return gpu_run("gpu_step", tests, sizeof tests / sizeof *tests);
}
