// The trained model of the tests.

#include "tests/model/story_rig.h"

#include <string.h>
#include <unistd.h>

// ---- The reference ------------------------------------------------------------------------------

float *story_logits(void)
{
    float *logits;
    check_ok(mem_new(STORY_STEPS * STORY_VOCAB, sizeof *logits, "logits", &logits));
    return logits;
}

void story_reference(float **logits, int32_t *ids)
{
    FILE *file = fopen(check_data("stories260K/greedy_logits_256x512.f32"), "rb");
    assert_non_null(file);
    *logits = story_logits();
    assert_int_equal(fread(*logits, sizeof **logits, STORY_STEPS * STORY_VOCAB, file),
                     STORY_STEPS * STORY_VOCAB);
    fclose(file);
    file = fopen(check_data("stories260K/greedy_ids_256.txt"), "r");
    assert_non_null(file);
    for (int i = 0; i < STORY_STEPS; i++)
        assert_int_equal(fscanf(file, "%d", &ids[i]), 1);
    fclose(file);
}

const char *story_convert(const char *type)
{
    static char path[64];
    char command[12000];
    const char *root = getenv("FATHOM_SOURCE_ROOT");
    const char *python = getenv("FATHOM_PYTHON");
    const char *checkpoint = check_data("stories260K/stories260K.bin");
    const char *tokenizer = check_data("stories260K/tok512.bin");
    if (python == NULL) python = "python3";
    snprintf(command, sizeof command, "%s -c 'import numpy' 2> /dev/null", python);
    if (system(command) != 0) check_skip("%s has no numpy", python);
    snprintf(path, sizeof path, "/tmp/fathom_t_runner_%d.gguf", (int)getpid());
    snprintf(command, sizeof command,
             "%s '%s/tools/convert_llama2c.py' '%s' '%s' %s --type %s > /dev/null", python,
             root != NULL ? root : ".", checkpoint, tokenizer, path, type);
    assert_int_equal(system(command), 0);
    return path;
}

// ---- A model ready to run -----------------------------------------------------------------------

void story_open(struct story_rig *rig, const char *path, fathom_device *device,
                uint32_t n_device_layers, uint32_t n_tokens_max)
{
    struct fathom_model_params model;
    struct fathom_runner_params runner;
    rig->device = device;
    fathom_model_params_init(&model);
    model.device = rig->device;
    model.n_device_layers = n_device_layers;
    check_ok(fathom_model_open(path, &model, &rig->model));
    fathom_runner_params_init(&runner, rig->model);
    runner.n_tokens_max = n_tokens_max;
    runner.kv_type = FATHOM_TYPE_F32;
    check_ok(fathom_runner_open(rig->model, &runner, &rig->runner));
    check_ok(fathom_seq_create(fathom_runner_engine(rig->runner), &rig->seq));
}

void story_close(struct story_rig *rig)
{
    fathom_runner_close(&rig->runner);
    fathom_model_close(&rig->model);
    fathom_device_close(&rig->device);
}

void story_run(struct story_rig *rig, const int32_t *ids, float *logits)
{
    for (int i = 0; i < STORY_STEPS; i++) {
        const int32_t id = i == 0 ? 1 : ids[i - 1];
        check_ok(fathom_runner_feed(rig->runner, rig->seq, &id, 1, logits + i * STORY_VOCAB, NULL));
    }
}

int32_t story_best(const float *logits)
{
    int32_t id = 0;
    for (int32_t i = 1; i < STORY_VOCAB; i++)
        if (logits[i] > logits[id]) id = i;
    return id;
}
