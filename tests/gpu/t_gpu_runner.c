// The forward pass end to end on the CUDA device, against the reference run of a real trained
// model.

#include "tests/gpu/device_rig.h"
#include "tests/model/story_rig.h"

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
    story_open(&rig, path, gpu_rig_open(), STORY_STEPS);
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

// As prompts are read, in chunks of any size: through cuBLAS.
static void run_chunks(const struct emu_mode *mode, const char *path, const int32_t *fed,
                       const int32_t *ids)
{
    static const uint32_t chunks[] = {1, 8, 9, 40};
    struct story_rig rig;
    float *got = story_logits();
    uint32_t at = 0;
    emu_begin(mode);
    story_open(&rig, path, gpu_rig_open(), STORY_STEPS);
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
        if (!emu_modes[i].swap) run_chunks(&emu_modes[i], path, fed, ids);
    unlink(path);
    mem_free(want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_chunks),
    };
    return gpu_run("gpu_runner", tests, sizeof tests / sizeof *tests);
}
