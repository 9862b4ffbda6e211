// The forward pass end to end on the CUDA device, against the reference run of a real trained
// model.

#include "tests/gpu/device_rig.h"
#include "tests/model/story_rig.h"
#include "tools/rig_layers.h"
#include "tools/say.h"

#include <math.h>
#include <unistd.h>

// Token by token, what the reference had: through the kernels of decoding.
static void test_decode(void **state)
{
    (void)state;
    struct story_rig rig;
    int32_t ids[STORY_STEPS];
    float *want;
    double worst = 0.0;
    const char *path = story_convert("f32"); // may skip the test: before anything is taken
    story_reference(&want, ids);
    float *got = story_logits();
    emu_begin(&emu_modes[0]);
    story_open(&rig, path, gpu_rig_open(), FATHOM_LAYERS_ALL, STORY_STEPS);
    unlink(path);
    story_run(&rig, ids, got);
    for (int i = 0; i < STORY_STEPS; i++) {
        assert_int_equal(story_best(got + i * STORY_VOCAB), ids[i]);
        for (int j = 0; j < STORY_VOCAB; j++) {
            const double error =
                fabs((double)got[i * STORY_VOCAB + j] - (double)want[i * STORY_VOCAB + j]);
            worst = error > worst || isnan(error) ? error : worst;
        }
    }
    printf("largest error of a logit %.2g\n", worst);
    assert_true(worst <= 1e-3);
    story_close(&rig);
    assert_int_equal(emu_end(), 0);
    mem_free(want);
    mem_free(got);
}

// As prompts are read, in chunks of any size: through cuBLAS. Of the layers whose weights are not
// on the device they come with every chunk.
static void run_chunks(const struct emu_mode *mode, const char *path, uint32_t n_device_layers,
                       const int32_t *fed, const int32_t *ids)
{
    static const uint32_t chunks[] = {1, 8, 9, 40};
    struct story_rig rig;
    float *got = story_logits();
    uint32_t at = 0;
    emu_begin(mode);
    story_open(&rig, path, gpu_rig_open(), n_device_layers, STORY_STEPS);
    for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
        check_ok(fathom_runner_feed(rig.runner, rig.seq, fed + at, chunks[c], NULL,
                                    got + (size_t)at * STORY_VOCAB));
        at += chunks[c];
    }
    for (uint32_t i = 0; i < at; i++)
        assert_int_equal(story_best(got + i * STORY_VOCAB), ids[i]);
    story_close(&rig);
    assert_int_equal(emu_end(), 0);
    mem_free(got);
}

static void test_chunks(void **state)
{
    (void)state;
    int32_t ids[STORY_STEPS], fed[STORY_STEPS];
    float *want;
    const char *path = story_convert("f32");
    story_reference(&want, ids);
    fed[0] = 1;
    memcpy(fed + 1, ids, (STORY_STEPS - 1) * sizeof *ids);
    for (size_t i = 0; i < emu_n_modes; i++)
        if (!emu_modes[i].swap)
            run_chunks(&emu_modes[i], path, i % 2 == 0 ? FATHOM_LAYERS_ALL : 2, fed, ids);
    unlink(path);
    mem_free(want);
}

// The layers that a device takes when it is to leave so many bytes free.
static uint32_t count_layers(const char *path, fathom_device *device, uint64_t reserve_bytes,
                             uint64_t *streamed_bytes)
{
    struct fathom_model_params params;
    fathom_model *model;
    fathom_model_params_init(&params);
    params.device = device;
    params.n_device_layers = FATHOM_LAYERS_FIT;
    params.reserve_bytes = reserve_bytes;
    check_ok(fathom_model_open(path, &params, &model));
    const struct fathom_model_info *info = fathom_model_info(model);
    const uint32_t n = info->n_device_layers;
    assert_true((info->streamed_bytes == 0) == (n == info->n_layers));
    *streamed_bytes = info->streamed_bytes;
    fathom_model_close(&model);
    return n;
}

static void test_layers_that_fit(void **state)
{
    (void)state;
    uint64_t all_bytes, some_bytes, no_bytes;
    const char *path = story_convert("f32");
    emu_begin(&emu_modes[0]);
    fathom_device *device = gpu_rig_open();
    const uint64_t n_free = fathom_device_free_bytes(device);
    assert_int_equal(count_layers(path, device, 0, &no_bytes), 5);
    assert_int_equal(count_layers(path, device, n_free, &all_bytes), 0);
    assert_in_range(count_layers(path, device, n_free - all_bytes, &some_bytes), 1, 4);
    assert_true(some_bytes > 0 && some_bytes < all_bytes);
    fathom_device_close(&device);
    assert_int_equal(emu_end(), 0);
    unlink(path);
}

// What -ngl asks for; and without it, room for a context.
static void test_layers_asked_for(void **state)
{
    (void)state;
    static const struct {
        int64_t asked;
        uint32_t n;
    } cases[] = {{0, 0}, {3, 3}, {99, 99}, {1ll << 40, FATHOM_LAYERS_ALL}, {-1, FATHOM_LAYERS_FIT}};
    // 5 layers, 4 KV heads, keys and values of 8 halves.
    enum { TOKEN_BYTES = 5 * 4 * (8 + 8) * 2 };
    struct rig_options options = {.path = story_convert("f32"), .type_default = "f16"};
    struct rig rig = {.device = gpu_rig_host(NULL, NULL)};
    struct fathom_model_params params;
    fathom_model_params_init(&params);
    assert_int_equal(rig_place_layers(&rig, &options, &params), EXIT_GOOD);
    assert_int_equal(params.n_device_layers, FATHOM_LAYERS_ALL); // it works in the host's memory
    fathom_device_close(&rig.device);
    emu_begin(&emu_modes[0]);
    rig.device = gpu_rig_open();
    const uint64_t an_eighth = fathom_device_free_bytes(rig.device) / 8;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        options.n_gpu_layers = cases[i].asked;
        assert_int_equal(rig_place_layers(&rig, &options, &params), EXIT_GOOD);
        assert_int_equal(params.n_device_layers, cases[i].n);
    }
    assert_int_equal(params.reserve_bytes, RIG_CTX_LEAST * TOKEN_BYTES + an_eighth);
    options.n_ctx = 100000;
    assert_int_equal(rig_place_layers(&rig, &options, &params), EXIT_GOOD);
    assert_int_equal(params.reserve_bytes, 100000 * TOKEN_BYTES + an_eighth);
    fathom_device_close(&rig.device);
    assert_int_equal(emu_end(), 0);
    unlink(options.path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_layers_that_fit),
        cmocka_unit_test(test_layers_asked_for),
    };
    return gpu_run("gpu_runner", tests, sizeof tests / sizeof *tests);
}
