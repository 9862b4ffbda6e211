// Steps that come again, as CUDA graphs (gpu/gpu_step.h): the same bits as operation by operation,
// whatever comes between them. And the order with streams of the caller's.

#include "tests/gpu/device_rig.h"

#include <math.h>
#include <string.h>

#include "fathom/fathom.h"
#include "gpu/gpu_step.h"
#include "src/base/rng.h"
#include "src/base/status.h"
#include "src/iface/linear.h"

enum { D = 32, HEADS = 2, ROWS = 200, VALUES = HEADS * D };

static char logged[1024];

static void note(int level, const char *text, void *user)
{
    (void)level, (void)user;
    const size_t used = strlen(logged);
    snprintf(logged + used, sizeof logged - used, "%s\n", text);
}

// A cache of one KV head, and the vectors of a step.
struct rig {
    fathom_device *device;
    struct weight *weight;
    uint16_t *dev_rows[2]; // of two sequences: keys, then values
    float *dev_x, *dev_y, *dev_norm;
};

static struct weight *open_weight(fathom_device *device)
{
    static float weights[VALUES * VALUES];
    const struct weight_desc desc = {"w", FATHOM_TYPE_F32, VALUES, VALUES, weights, false};
    struct weight *weight;
    struct rng rng;
    rng_init(&rng, 5);
    for (size_t i = 0; i < VALUES * VALUES; i++)
        weights[i] = rng_normal(&rng) / 8;
    check_ok(device->linear->weight_open(device, &desc, &weight));
    return weight;
}

static void open_rig(struct rig *rig)
{
    static float norm[VALUES];
    struct rng rng;
    void *dev;
    rng_init(&rng, 6);
    for (size_t i = 0; i < VALUES; i++)
        norm[i] = 1 + rng_normal(&rng) / 8;
    const struct gpu_device_params params = gpu_rig_params(gpu_rig_host(note, NULL));
    logged[0] = '\0';
    check_ok(gpu_device_open(&params, &rig->device));
    rig->weight = open_weight(rig->device);
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

static fathom_status add_product(const struct rig *rig, const struct weight *weight)
{
    const struct matmul_many_args args = {.dev_x = rig->dev_y,
                                          .n_tokens = 1,
                                          .n_products = 1,
                                          .accumulate = true,
                                          .products = {{weight, NULL, rig->dev_x}}};
    return rig->device->linear->matmul(rig->device, &args);
}

// The operations of a layer, of token `row` of a sequence; what comes out is in dev_x.
static fathom_status ask(const struct rig *rig, uint32_t s, uint32_t row, uint32_t n_window)
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
                                             .n_window = n_window,
                                             .scale = 1,
                                             .dev_out = rig->dev_y};
    FATHOM_TRY(ops->store_rows(rig->device, &store));
    store.dev_x += D;
    store.dev_rows = rig->dev_rows[s] + ROWS * D;
    FATHOM_TRY(ops->store_rows(rig->device, &store));
    FATHOM_TRY(ops->attend_dense(rig->device, &attend));
    FATHOM_TRY(add_product(rig, rig->weight));
    FATHOM_TRY(
        linear->rmsnorm(rig->device, rig->dev_x, rig->dev_norm, rig->dev_x, 1, VALUES, 1e-5f));
    return linear->swiglu(rig->device, rig->dev_x, rig->dev_y, rig->dev_x, VALUES);
}

static fathom_status send(const struct rig *rig, uint32_t row)
{
    float x[VALUES];
    for (uint32_t i = 0; i < VALUES; i++)
        x[i] = sinf((float)(row * VALUES + i));
    return rig->device->ops->upload(rig->device, rig->dev_x, x, sizeof x);
}

// Of each layer, one behind the other.
static fathom_status ask_layers(const struct rig *rig, uint32_t s, uint32_t row, uint32_t n_layers,
                                float *out)
{
    FATHOM_TRY(send(rig, row));
    for (uint32_t l = 0; l < n_layers; l++)
        FATHOM_TRY(ask(rig, s, row, l % 2 == 0 ? 0 : 100));
    return rig->device->ops->download(rig->device, out, rig->dev_x, VALUES * sizeof *out);
}

static fathom_status step(const struct rig *rig, uint32_t s, uint32_t row, uint32_t n_layers,
                          float *out)
{
    rig->device->ops->step_begin(rig->device);
    const fathom_status status = ask_layers(rig, s, row, n_layers, out);
    rig->device->ops->step_end(rig->device);
    return status;
}

static void check_equal(const float *got, const float *want, uint32_t s, uint32_t row)
{
    for (size_t i = 0; i < VALUES; i++)
        if (!(got[i] == want[i])) // not NaN, either
            fail_msg("sequence %u, row %u, value %zu: %g, not %g", s, row, i, (double)got[i],
                     (double)want[i]);
}

static void step_both(const struct rig *want, const struct rig *got, uint32_t s, uint32_t row)
{
    float a[VALUES], b[VALUES];
    check_ok(ask_layers(want, s, row, 2, a));
    check_ok(step(got, s, row, 2, b));
    check_equal(b, a, s, row);
}

// Graphs launched so far; on a device, at least that none failed.
static void check_launches(uint64_t n)
{
    if (emu_graph_launches() != UINT64_MAX) assert_int_equal(emu_graph_launches(), n);
    if (strstr(logged, "CUDA graph") != NULL) fail_msg("%s", logged);
}

// Alike, and beyond the reach of a launch: 64 and 128 keys.
static void run_alike(void)
{
    struct rig want, got;
    open_rig(&want);
    open_rig(&got);
    for (uint32_t row = 0; row < 4; row++)
        step_both(&want, &got, 0, row);
    check_launches(3); // all but the first
    for (uint32_t row = 60; row < 68; row++)
        step_both(&want, &got, 0, row);
    check_launches(3 + 7);
    for (uint32_t row = 126; row < 131; row++)
        step_both(&want, &got, 0, row);
    check_launches(3 + 7 + 4);
    close_rig(&want);
    close_rig(&got);
}

GPU_TEST(alike)

// What comes between steps: another sequence, memory that is given back, a step that fails, one
// that is looked into, operations that are no step's.
static void run_unlike(void)
{
    struct rig want, got;
    float out[VALUES] = {0};
    open_rig(&want);
    open_rig(&got);
    const struct device_ops *ops = got.device->ops;
    for (uint32_t row = 0; row < 3; row++) {
        step_both(&want, &got, 0, row);
        step_both(&want, &got, 1, row);
    }
    check_launches(0);
    step_both(&want, &got, 0, 3);
    step_both(&want, &got, 0, 4);
    step_both(&want, &got, 0, 5);
    check_launches(2);
    ops->release(got.device, gpu_rig_put(got.device, out, VALUES), sizeof out);
    step_both(&want, &got, 0, 6); // a graph might have known that memory
    check_launches(2);
    step_both(&want, &got, 0, 7);
    ops->step_begin(got.device);
    check_ok(ask(&got, 0, 2, 0)); // would spoil that row
    ops->step_end(got.device);
    step_both(&want, &got, 0, 8);
    check_launches(4);
    ops->step_begin(got.device);
    for (int i = 0; i < 2; i++) {
        check_ok(ask(&got, 1, 0, 0));
        check_ok(ops->download(got.device, out, got.dev_x, sizeof out));
    }
    ops->step_end(got.device);
    step_both(&want, &got, 0, 9);
    check_launches(5); // the second half of that step was as the first
    check_ok(ask(&got, 1, 0, 0));
    step_both(&want, &got, 0, 10);
    check_launches(6);
    close_rig(&want);
    close_rig(&got);
}

GPU_TEST(unlike)

// A weight that is closed while a product with it is kept back.
static void run_closed(void)
{
    float want[VALUES], got[VALUES];
    struct rig rig;
    open_rig(&rig);
    const struct device_ops *ops = rig.device->ops;
    for (int as_step = 0; as_step < 2; as_step++) {
        struct weight *weight = open_weight(rig.device);
        check_ok(send(&rig, 1));
        if (as_step) ops->step_begin(rig.device);
        check_ok(add_product(&rig, weight));
        rig.device->linear->weight_close(rig.device, &weight);
        check_ok(ops->download(rig.device, as_step ? got : want, rig.dev_x, sizeof want));
        if (as_step) ops->step_end(rig.device);
    }
    check_equal(got, want, 0, 0);
    close_rig(&rig);
}

GPU_TEST(closed)

// More operations than are kept back.
static void test_many(void **state)
{
    (void)state;
    enum { LAYERS = GPU_STEP_OPS_MAX / 6 + 2 };
    float want[VALUES], got[VALUES];
    struct rig rig;
    emu_begin(&emu_modes[0]);
    open_rig(&rig);
    check_ok(ask_layers(&rig, 0, 0, LAYERS, want));
    check_ok(step(&rig, 1, 0, LAYERS, got));
    check_equal(got, want, 1, 0);
    close_rig(&rig);
    assert_int_equal(emu_end(), 0);
}

// Six steps, of which a call of the runtime fails: then a step is an error, and right when it is
// asked for again, or right at once. Returns the numbers of the first and the last call of the
// second step, which records a graph.
enum { STEPS = 6 };
struct calls {
    uint64_t first, last;
};

static struct calls run_failing(uint64_t call, float want[STEPS][VALUES])
{
    const struct emu_mode mode = {.fail_call = call};
    struct calls calls = {0, 0};
    struct rig rig;
    float got[VALUES];
    emu_begin(&mode);
    open_rig(&rig);
    for (uint32_t row = 0; row < STEPS; row++) {
        if (row == 1) calls.first = emu_calls() + 1;
        fathom_status status = step(&rig, 0, row, 2, got);
        if (row == 1) calls.last = emu_calls();
        if (call > 0 && row == 1 && status < 0) status = step(&rig, 0, row, 2, got);
        check_ok(status);
        check_equal(got, want[row], 0, row);
    }
    // Of steps 3 to 6 the last two at least: one that failed is tried again when it came twice.
    assert_true(emu_graph_launches() >= 2);
    close_rig(&rig);
    assert_int_equal(emu_end(), 0);
    return calls;
}

static void test_failing_calls(void **state)
{
    (void)state;
    float want[STEPS][VALUES];
    size_t n_recordings = 0;
    struct rig rig;
    emu_begin(&emu_modes[0]);
    open_rig(&rig);
    for (uint32_t row = 0; row < STEPS; row++)
        check_ok(ask_layers(&rig, 0, row, 2, want[row]));
    close_rig(&rig);
    assert_int_equal(emu_end(), 0);
    const struct calls calls = run_failing(0, want);
    for (uint64_t call = calls.first; call <= calls.last && calls.last > 0; call++) {
        run_failing(call, want);
        n_recordings += strstr(logged, "without a CUDA graph, and tries again") != NULL;
    }
    // Begin, 7 launches of a layer, end, and instantiation.
    if (calls.last > 0) assert_int_equal(n_recordings, 1 + 2 * 7 + 2);
}

// ---- Order with a stream of the caller's --------------------------------------------------------

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
    // One that is recorded would take the device's stream along.
    cudaGraph_t graph;
    gpu_ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    check_error(fathom_device_wait_stream(device, stream), FATHOM_EINVAL, "being captured");
    check_error(fathom_stream_wait_device(device, stream), FATHOM_EINVAL, "being captured");
    gpu_ok(cudaStreamEndCapture(stream, &graph));
    gpu_ok(cudaGraphDestroy(graph));
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
        cmocka_unit_test(test_alike),         cmocka_unit_test(test_unlike),
        cmocka_unit_test(test_closed),        cmocka_unit_test(test_many),
        cmocka_unit_test(test_failing_calls), cmocka_unit_test(test_streams),
    };
    return gpu_run("gpu_step", tests, sizeof tests / sizeof *tests);
}
