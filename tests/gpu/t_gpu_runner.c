// The forward pass end to end on the CUDA device, against the reference run of a real trained
// model.

#include "tests/gpu/device_rig.h"
#include "tests/model/story_rig.h"
#include "tools/rig.h"

#include <math.h>
#include <unistd.h>

// By how much the best logit leads.
static float lead(const float *logits)
{
    const int32_t best = story_best(logits);
    float next = -INFINITY;
    for (int32_t i = 0; i < STORY_VOCAB; i++)
        if (i != best && logits[i] > next) next = logits[i];
    return logits[best] - next;
}

// Token by token, what the reference had, wherever that leads by more than both logits may be off
// by
// (`most` each; 0: everywhere): through the kernels of decoding.
static void check_decode(const char *type, float most)
{
    struct story_rig rig;
    int32_t ids[STORY_STEPS];
    float *want;
    float worst = 0;
    const char *path = story_convert(type); // may skip the test: before anything is taken
    story_reference(&want, ids);
    float *got = story_logits();
    emu_begin(&emu_modes[0]);
    story_open(&rig, path, gpu_rig_open(), FATHOM_LAYERS_ALL, STORY_STEPS);
    unlink(path);
    story_run(&rig, ids, got);
    // All tokens but the first, and where a reach ends (64, 128 keys).
    assert_true(emu_graph_launches() >= STORY_STEPS - 3);
    for (int i = 0; i < STORY_STEPS; i++) {
        if (most == 0 || lead(want + i * STORY_VOCAB) > 2 * most)
            assert_int_equal(story_best(got + i * STORY_VOCAB), ids[i]);
        for (int j = 0; j < STORY_VOCAB; j++) {
            const float error = fabsf(got[i * STORY_VOCAB + j] - want[i * STORY_VOCAB + j]);
            worst = error > worst || isnan(error) ? error : worst;
        }
    }
    printf("%s: largest error of a logit %.2g\n", type, (double)worst);
    assert_true(worst <= (most == 0 ? 1e-3f : most));
    story_close(&rig);
    assert_int_equal(emu_end(), 0);
    mem_free(want);
    mem_free(got);
}

static void test_decode(void **state)
{
    (void)state;
    check_decode("f32", 0);
    check_decode("f16", 0.025f); // 0.011 was measured
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
    run_chunks(&emu_modes[0], path, 2, fed, ids);
    for (size_t i = 0; i < emu_n_modes; i++)
        if (!emu_modes[i].swap)
            run_chunks(&emu_modes[i], path, i % 2 == 0 ? FATHOM_LAYERS_ALL : 2, fed, ids);
    unlink(path);
    mem_free(want);
}

// What a sampler picks after each of the first ids of the reference's text.
static void run_picks(const char *path, fathom_device *device, const int32_t *fed,
                      const struct fathom_sampler_params *params, int32_t *picks, uint32_t n)
{
    struct story_rig rig;
    fathom_sampler *sampler;
    check_ok(fathom_sampler_open(params, STORY_VOCAB, &sampler));
    fathom_sampler_ban(sampler, 13);
    story_open(&rig, path, device, FATHOM_LAYERS_ALL, n);
    for (uint32_t i = 0; i < n; i++) {
        fathom_sampler_accept(sampler, fed[i]);
        check_ok(fathom_runner_feed_pick(rig.runner, rig.seq, fed + i, 1, sampler, &picks[i]));
    }
    story_close(&rig);
    fathom_sampler_close(&sampler);
}

// Greedily, and drawn from the best and from all: as on the CPU.
static void test_picks(void **state)
{
    (void)state;
    enum { N = 24 };
    int32_t ids[STORY_STEPS], fed[N], got[N], want_picks[N];
    float *want;
    const char *path = story_convert("f32");
    story_reference(&want, ids);
    fed[0] = 1;
    memcpy(fed + 1, ids, (N - 1) * sizeof *ids);
    for (int kind = 0; kind < 4; kind++) {
        struct fathom_sampler_params params;
        fathom_sampler_params_init(&params);
        params.temperature = kind == 0 ? 0 : 1;
        params.top_k = kind == 2 ? 0 : 40;
        params.repeat_penalty = kind == 3 ? 1.3f : 1;
        run_picks(path, gpu_rig_host(NULL, NULL), fed, &params, want_picks, N);
        emu_begin(&emu_modes[0]);
        run_picks(path, gpu_rig_open(), fed, &params, got, N);
        assert_int_equal(emu_end(), 0);
        assert_memory_equal(got, want_picks, sizeof got);
    }
    unlink(path);
    mem_free(want);
}

// The layers that a device takes beside a cache of so many tokens, and a runner's bytes.
static uint32_t count_layers(const char *path, fathom_device *device, uint32_t n_fit_tokens,
                             uint64_t *streamed_bytes, uint64_t *runner_bytes)
{
    struct fathom_model_params params;
    fathom_model *model;
    fathom_model_params_init(&params);
    params.device = device;
    params.n_device_layers = FATHOM_LAYERS_FIT;
    params.n_fit_tokens = n_fit_tokens;
    check_ok(fathom_model_open(path, &params, &model));
    const struct fathom_model_info *info = fathom_model_info(model);
    const uint32_t n = info->n_device_layers;
    assert_true((info->streamed_bytes == 0) == (n == info->n_layers));
    *streamed_bytes = info->streamed_bytes;
    *runner_bytes = fathom_runner_bytes(model, params.n_fit_batch);
    fathom_model_close(&model);
    return n;
}

static void test_layers_that_fit(void **state)
{
    (void)state;
    // A token: 5 layers, 4 KV heads, a key and a value of 8 halves.
    enum { TOKEN_BYTES = 5 * 4 * (8 + 8) * 2, OUTPUT_BYTES = 512 * 64 * 4, LARGEST = 172 * 64 * 4 };
    uint64_t all_bytes, some_bytes, no_bytes, runner_bytes;
    const char *path = story_convert("f32");
    emu_begin(&emu_modes[0]);
    fathom_device *device = gpu_rig_open();
    assert_int_equal(count_layers(path, device, 0, &no_bytes, &runner_bytes), 5);
    assert_int_equal(count_layers(path, device, UINT32_MAX, &all_bytes, &runner_bytes), 0);
    const uint64_t n_free = fathom_device_free_bytes(device);
    const uint64_t left = n_free - n_free / FATHOM_FIT_MARGIN - runner_bytes - OUTPUT_BYTES;
    // All, if no room is kept for a weight that comes from RAM; then half of them beside it.
    uint32_t n = (uint32_t)((left - all_bytes - LARGEST / 2) / TOKEN_BYTES);
    assert_int_equal(count_layers(path, device, n, &no_bytes, &runner_bytes), 5);
    n = (uint32_t)((left - all_bytes / 2 - LARGEST) / TOKEN_BYTES);
    assert_in_range(count_layers(path, device, n, &some_bytes, &runner_bytes), 1, 4);
    assert_true(some_bytes > 0 && some_bytes < all_bytes);
    fathom_device_close(&device);
    assert_int_equal(emu_end(), 0);
    unlink(path);
}

// What -ngl says.
static void test_layers_asked_for(void **state)
{
    (void)state;
    static const struct {
        int64_t asked;
        uint32_t n;
    } cases[] = {{0, 0}, {3, 3}, {99, 99}, {1ll << 40, FATHOM_LAYERS_ALL}, {-1, FATHOM_LAYERS_FIT}};
    struct fathom_model_params params;
    fathom_model_params_init(&params);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct rig_options options = {
            .n_gpu_layers = cases[i].asked, .n_ctx = i % 2 == 0 ? 0 : 999, .n_batch = 7};
        rig_place_layers(&options, &params);
        assert_int_equal(params.n_device_layers, cases[i].n);
        assert_int_equal(params.n_fit_tokens, i == 0 ? 4096 : 999); // as it was, without -c
        assert_int_equal(params.n_fit_batch, 7);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_picks),
        cmocka_unit_test(test_layers_that_fit),
        cmocka_unit_test(test_layers_asked_for),
    };
    return gpu_run("gpu_runner", tests, sizeof tests / sizeof *tests);
}
