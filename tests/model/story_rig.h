// A trained model (stories260K) ready to run, and what the reference made of it: 256 greedy steps.

#ifndef FATHOM_TESTS_MODEL_STORY_RIG_H
#define FATHOM_TESTS_MODEL_STORY_RIG_H

#include "tests/check.h"

#include "fathom/model.h"
#include "src/base/mem.h"

enum { STORY_STEPS = 256, STORY_VOCAB = 512 };

// [STORY_STEPS, STORY_VOCAB], for mem_free.
float *story_logits(void);
// Logits likewise, and the ids [STORY_STEPS]. Skips the test when there is no reference.
void story_reference(float **logits, int32_t *ids);
// Converts the checkpoint; the caller unlinks the file. May skip the test: before anything is
// taken.
const char *story_convert(const char *type);

struct story_rig {
    fathom_device *device;
    fathom_model *model;
    fathom_runner *runner;
    struct fathom_seq seq;
};

// The device becomes the rig's to close. The cache is f32.
void story_open(struct story_rig *rig, const char *path, fathom_device *device,
                uint32_t n_device_layers, uint32_t n_tokens_max);
void story_close(struct story_rig *rig);

// Feeds BOS and then the ids, one at a time; logits [STORY_STEPS, STORY_VOCAB].
void story_run(struct story_rig *rig, const int32_t *ids, float *logits);

int32_t story_best(const float *logits);

#endif
