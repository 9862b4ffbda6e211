// The CUDA device where something is missing: a driver, a GPU, cuBLAS, memory; or where any call
// fails. With the emulation alone, for a device has none of that at will.

#include "tests/gpu/device_rig.h"

#include <string.h>

#include "fathom/fathom.h"
#include "src/base/status.h"
#include "src/iface/linear.h"

// ---- Which device -------------------------------------------------------------------------------

struct opening {
    const char *name;
    fathom_status status;
    const char *part; // of the error, or of the device's text
};

static char logged[4096];

static void note(int level, const char *text, void *user)
{
    (void)user;
    const size_t used = strlen(logged);
    snprintf(logged + used, sizeof logged - used, "%d %s\n", level, text);
}

static void check_opening(const struct opening *opening)
{
    struct fathom_device_params params;
    fathom_device *device = NULL;
    fathom_device_params_init(&params);
    params.name = opening->name;
    params.n_threads = 1;
    params.log = note;
    logged[0] = '\0';
    const fathom_status status = fathom_device_open(&params, &device);
    if (opening->status < 0) {
        check_error(status, opening->status, opening->part);
        assert_null(device);
        return;
    }
    check_ok(status);
    if (strstr(fathom_device_text(device), opening->part) == NULL)
        fail_msg("%s opens %s", opening->name, fathom_device_text(device));
    fathom_device_close(&device);
}

static void check_openings(const struct emu_mode *mode, const struct opening *openings, size_t n)
{
    emu_begin(mode);
    for (size_t i = 0; i < n; i++)
        check_opening(&openings[i]);
    assert_int_equal(emu_end(), 0);
}

static void test_two_gpus(void **state)
{
    (void)state;
    static const struct opening openings[] = {
        {"cuda", FATHOM_OK, "cuda:0: emulation, compute capability 8.6, 1.0 GiB"},
        {"cuda:1", FATHOM_OK, "cuda:1: emulation"},
        {"cuda:2", FATHOM_EUNSUPPORTED, "cuda:0 to cuda:1"},
        {"cuda:", FATHOM_EINVAL, "must be auto, cpu, cuda or cuda:N"},
        {"cuda:1x", FATHOM_EINVAL, "must be auto"},
        {"cuda:99999999999", FATHOM_EINVAL, "must be auto"},
        {"cpu", FATHOM_OK, "cpu: 1 thread"},
        {"auto", FATHOM_OK, "cuda:0"},
    };
    struct fathom_device_info infos[4];
    const struct emu_mode mode = {.n_devices = 2};
    check_openings(&mode, openings, sizeof openings / sizeof *openings);
    emu_begin(&mode);
    assert_int_equal(fathom_device_list(NULL, 0), 3);
    assert_int_equal(fathom_device_list(infos, 4), 3);
    emu_end();
    assert_string_equal(infos[0].name, "cpu");
    assert_string_equal(infos[1].name, "cuda:0");
    assert_string_equal(infos[2].name, "cuda:1");
    assert_string_equal(infos[2].fault, "");
    assert_int_equal(infos[0].memory_bytes, 0);
    assert_int_equal(infos[2].memory_bytes, 1 << 30);
}

static void test_no_gpu(void **state)
{
    (void)state;
    static const struct {
        struct emu_mode mode;
        const char *fault;
    } cases[] = {
        {{.driver = -1}, "no NVIDIA driver is loaded: install one"},
        {{.driver = 12040}, "knows CUDA up to 12.4, and this build needs 13.0"},
        {{.lacks_gpu = true}, "finds no GPU"},
        {{.capability = 75}, "compute capability 7.5 is too old: this build is for 8.0 and above"},
        {{.device_bytes = 1 << 20}, "take a larger GPU (cuda:N)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const bool small = cases[i].mode.device_bytes > 0;
        const struct opening openings[] = {
            {"cuda", small ? FATHOM_ENOMEM : FATHOM_EUNSUPPORTED, cases[i].fault},
            {"cuda:0", small ? FATHOM_ENOMEM : FATHOM_EUNSUPPORTED, cases[i].fault},
            {"auto", FATHOM_OK, "cpu: 1 thread"},
        };
        struct fathom_device_info infos[2];
        check_openings(&cases[i].mode, openings, 3);
        if (logged[0] != '0' + FATHOM_LOG_WARN || strstr(logged, cases[i].fault) == NULL)
            fail_msg("auto said: %s", logged);
        emu_begin(&cases[i].mode);
        assert_int_equal(fathom_device_list(infos, 2), 2);
        emu_end();
        assert_true(small || strstr(infos[1].fault, cases[i].fault) != NULL);
    }
}

// ---- Every call fails once ----------------------------------------------------------------------

enum { COLS = 64, ROWS = 40, TOKENS = 12 };

// Three steps alike: each operation by itself, a graph that is recorded, and that graph again.
static fathom_status use_steps(fathom_device *device, const struct matmul_many_args *product,
                               float *dev_x)
{
    fathom_status status = FATHOM_OK;
    for (int i = 0; i < 3 && status >= 0; i++) {
        device->ops->step_begin(device);
        status = device->linear->matmul(device, product);
        if (status >= 0)
            status = device->linear->rmsnorm(device, dev_x, dev_x, dev_x, 1, COLS, 1e-5f);
        if (status >= 0) status = device->ops->sync(device);
        device->ops->step_end(device);
    }
    return status;
}

// Opens a device and has it do some of everything.
static fathom_status use(fathom_device *host, bool *opened)
{
    static float rows[ROWS * COLS], x[TOKENS * COLS], out[TOKENS * ROWS];
    const struct gpu_device_params params = gpu_rig_params(host);
    const struct weight_desc desc = {"w", FATHOM_TYPE_F32, ROWS, COLS, rows, false};
    const struct weight_desc in_ram = {"v", FATHOM_TYPE_F32, ROWS, COLS, rows, true};
    const int32_t ids[] = {3, 1};
    struct logit best[2];
    struct weight *weight = NULL, *guest = NULL, *table = NULL;
    fathom_device *device;
    void *dev_x = NULL, *dev_out = NULL, *dev_out2 = NULL;
    fathom_status status;
    FATHOM_TRY(gpu_device_open(&params, &device));
    *opened = true;
    const struct device_ops *ops = device->ops;
    const struct linear_ops *linear = device->linear;
    FATHOM_CHECK(linear->weight_open(device, &desc, &weight), out);
    FATHOM_CHECK(linear->weight_open(device, &in_ram, &guest), out);
    FATHOM_CHECK(linear->table_open(device, &desc, &table), out);
    FATHOM_CHECK(ops->alloc(device, sizeof x, "x", &dev_x), out);
    FATHOM_CHECK(ops->alloc(device, sizeof out, "out", &dev_out), out);
    FATHOM_CHECK(ops->alloc(device, sizeof out, "out", &dev_out2), out);
    FATHOM_CHECK(ops->upload(device, dev_x, x, sizeof x), out);
    FATHOM_CHECK(linear->embed(device, table, ids, 2, dev_x), out);
    struct matmul_many_args args = {
        .dev_x = dev_x,
        .n_tokens = TOKENS,
        .n_products = 2,
        .products = {{weight, NULL, dev_out}, {guest, NULL, dev_out2}},
    };
    FATHOM_CHECK(linear->matmul(device, &args), out);
    args.n_tokens = 1;
    FATHOM_CHECK(linear->matmul(device, &args), out);
    args.n_products = 1;
    FATHOM_CHECK(use_steps(device, &args, dev_x), out);
    FATHOM_CHECK(linear->rmsnorm(device, dev_x, dev_out, dev_x, TOKENS, COLS, 1e-5f), out);
    FATHOM_CHECK(linear->swiglu(device, dev_x, dev_x, dev_x, TOKENS * COLS), out);
    FATHOM_CHECK(linear->best_logits(device, dev_out, ROWS, best, 2), out);
    ops->move(device, dev_x, (float *)dev_x + COLS, sizeof x / 2);
    FATHOM_CHECK(ops->download(device, out, dev_out, sizeof out), out);
    FATHOM_CHECK(fathom_device_wait_stream(device, NULL), out);
    FATHOM_CHECK(fathom_stream_wait_device(device, NULL), out);
    status = ops->sync(device);
out:
    linear->weight_close(device, &weight);
    linear->weight_close(device, &guest);
    linear->weight_close(device, &table);
    ops->release(device, dev_x, sizeof x);
    ops->release(device, dev_out, sizeof out);
    ops->release(device, dev_out2, sizeof out);
    ops->close(device);
    return status;
}

// Whatever fails, there is an error with a text and nothing is left; but for what only asks, or has
// another way, and so does no harm.
static void test_failing_calls(void **state)
{
    (void)state;
    size_t n_harmless = 0;
    for (uint64_t call = 1;; call++) {
        const struct emu_mode mode = {.fail_call = call};
        emu_begin(&mode);
        bool opened = false;
        fathom_device *host = gpu_rig_host(NULL, NULL);
        const fathom_status status = use(host, &opened);
        if (!opened) host->ops->close(host);
        const uint64_t n_calls = emu_calls();
        assert_int_equal(emu_end(), 0);
        if (call > n_calls) {
            check_ok(status);
            printf("%llu calls, of which %zu may fail\n", (unsigned long long)n_calls, n_harmless);
            assert_true(call > 50 && n_harmless <= 9); // 7 of them of a graph
            return;
        }
        if (status == FATHOM_OK)
            n_harmless++;
        else
            assert_true(fathom_last_error()[0] != '\0');
    }
}

// ---- Without cuBLAS -----------------------------------------------------------------------------

static void multiply(const struct emu_mode *mode, float *out)
{
    static float rows[ROWS * COLS], x[TOKENS * COLS];
    const struct weight_desc desc = {"w", FATHOM_TYPE_F32, ROWS, COLS, rows, false};
    struct weight *weight;
    fathom_device *device;
    for (size_t i = 0; i < ROWS * COLS; i++)
        rows[i] = (float)(i % 7) - 3;
    for (size_t i = 0; i < TOKENS * COLS; i++)
        x[i] = (float)(i % 5) - 2; // all sums are exact
    emu_begin(mode);
    const struct gpu_device_params params = gpu_rig_params(gpu_rig_host(note, NULL));
    logged[0] = '\0';
    check_ok(gpu_device_open(&params, &device));
    check_ok(device->linear->weight_open(device, &desc, &weight));
    float *dev_x = gpu_rig_put(device, x, TOKENS * COLS);
    float *dev_out = gpu_rig_put(device, x, TOKENS * ROWS);
    const struct matmul_many_args args = {
        .dev_x = dev_x, .n_tokens = TOKENS, .n_products = 1, .products = {{weight, NULL, dev_out}}};
    check_ok(device->linear->matmul(device, &args));
    gpu_rig_take(device, out, dev_out, TOKENS * ROWS);
    device->ops->release(device, dev_x, sizeof x);
    device->linear->weight_close(device, &weight);
    device->ops->close(device);
    assert_int_equal(emu_end(), 0);
}

static void test_no_blas(void **state)
{
    (void)state;
    static float with[TOKENS * ROWS], without[TOKENS * ROWS];
    multiply(&(struct emu_mode){0}, with);
    assert_string_equal(logged, "");
    multiply(&(struct emu_mode){.lacks_blas = true}, without);
    assert_non_null(strstr(logged, "no cuBLAS 13"));
    assert_memory_equal(with, without, sizeof with);
}

// ---- What an engine on it can be ----------------------------------------------------------------

static void check_mode(fathom_device *device, int32_t mode, fathom_status wanted)
{
    struct fathom_engine_params params;
    fathom_engine *engine = NULL;
    fathom_engine_params_init(&params);
    params.n_layers = params.n_heads = params.n_kv_heads = 1;
    params.d_k = params.d_v = 32;
    params.n_tokens_max = 10000;
    params.kv.mode = mode;
    const fathom_status status = fathom_engine_open(device, &params, &engine);
    if (wanted < 0) {
        check_error(status, wanted, "--kv-mode");
        return;
    }
    check_ok(status);
    assert_int_equal(fathom_engine_kv(engine)->mode, FATHOM_KV_DENSE);
    fathom_engine_close(&engine);
}

static void test_kv_modes(void **state)
{
    (void)state;
    emu_begin(&(struct emu_mode){0});
    fathom_device *device = gpu_rig_open();
    check_mode(device, FATHOM_KV_DENSE, FATHOM_OK);
    check_mode(device, FATHOM_KV_AUTO, FATHOM_OK);
    check_mode(device, FATHOM_KV_STREAM, FATHOM_EUNSUPPORTED);
    check_mode(device, FATHOM_KV_SPARSE, FATHOM_EUNSUPPORTED);
    device->ops->close(device);
    assert_int_equal(emu_end(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_gpus),      cmocka_unit_test(test_no_gpu),
        cmocka_unit_test(test_failing_calls), cmocka_unit_test(test_no_blas),
        cmocka_unit_test(test_kv_modes),
    };
    return check_run("gpu_faults", tests, sizeof tests / sizeof *tests);
}
