// A trained model of F16 weights reads a text of some 2000 tokens on the CUDA device, as prompts
// are read, and answers questions about it.

#include "tests/gpu/device_rig.h"

#include <string.h>

#include "fathom/model.h"
#include "src/base/rng.h"

enum {
    TEXT_BYTES = 1950, // and a question of 100 behind it
    N_WORDS = 8,
    N_VALUES = N_WORDS, // one of each adjective
    N_DIGITS = 5,
    N_VOCAB = 258,
    BOS = 256, // the others are bytes
    N_CTX = 2304,
};

static const char *const adjectives[N_WORDS] = {"amber", "brave", "calm",  "crimson",
                                                "dusty", "early", "faded", "golden"};
static const char *const nouns[N_WORDS] = {"anchor", "badger", "beacon", "bridge",
                                           "castle", "comet",  "dagger", "ember"};
static const char *const verbs[N_WORDS] = {"follows", "watches", "finds", "leaves",
                                           "guards",  "hears",   "shows", "takes"};

struct needles {
    char text[TEXT_BYTES + 256];
    uint32_t values[N_VALUES]; // of adjective i and noun i
};

static void add_sentence(struct needles *needles, struct rng *rng)
{
    const size_t used = strlen(needles->text);
    snprintf(needles->text + used, sizeof needles->text - used, "The %s %s %s the %s. ",
             adjectives[rng_below(rng, N_WORDS)], nouns[rng_below(rng, N_WORDS)],
             verbs[rng_below(rng, N_WORDS)], nouns[rng_below(rng, N_WORDS)]);
}

static void write_text(struct needles *needles)
{
    struct rng rng;
    rng_init(&rng, 5);
    memset(needles, 0, sizeof *needles);
    for (int i = 0; i < N_VALUES; i++) {
        needles->values[i] = rng_below(&rng, 100000);
        const size_t end = (size_t)TEXT_BYTES * (size_t)(i + 1) / (N_VALUES + 1);
        while (strlen(needles->text) < end)
            add_sentence(needles, &rng);
        const size_t used = strlen(needles->text);
        snprintf(needles->text + used, sizeof needles->text - used,
                 "The secret number of %s %s is %05u. ", adjectives[i], nouns[i],
                 needles->values[i]);
    }
    while (strlen(needles->text) < TEXT_BYTES)
        add_sentence(needles, &rng);
}

// Feeds the text; logits are of its last byte.
static void feed(fathom_runner *runner, struct fathom_seq seq, const char *text, bool bos,
                 float *logits)
{
    enum { BATCH = 512 };
    const size_t n = strlen(text) + bos;
    int32_t ids[N_CTX];
    ids[0] = BOS;
    for (size_t i = bos; i < n; i++)
        ids[i] = (unsigned char)text[i - bos];
    for (size_t i = 0; i < n; i += BATCH)
        check_ok(fathom_runner_feed(runner, seq, ids + i, (uint32_t)(n - i < BATCH ? n - i : BATCH),
                                    logits, NULL));
}

static void check_answer(fathom_runner *runner, struct fathom_seq seq, int i, uint32_t value)
{
    char question[256], answer[N_DIGITS + 1] = "", wanted[16];
    float logits[N_VOCAB];
    uint32_t n_before;
    check_ok(fathom_seq_count(fathom_runner_engine(runner), seq, &n_before));
    snprintf(question, sizeof question,
             "\nQuestion: What is the secret number of %s %s?\n"
             "Answer: The secret number of %s %s is ",
             adjectives[i], nouns[i], adjectives[i], nouns[i]);
    snprintf(wanted, sizeof wanted, "%05u", value);
    feed(runner, seq, question, false, logits);
    for (int digit = 0; digit < N_DIGITS; digit++) {
        int32_t best = 0;
        for (int32_t id = 1; id < N_VOCAB; id++)
            if (logits[id] > logits[best]) best = id;
        answer[digit] = (char)best;
        check_ok(fathom_runner_feed(runner, seq, &best, 1, logits, NULL));
    }
    assert_string_equal(answer, wanted);
    check_ok(fathom_seq_truncate(fathom_runner_engine(runner), seq, n_before));
}

static void test_needles(void **state)
{
    (void)state;
    static struct needles needles;
    struct fathom_model_params model_params;
    struct fathom_runner_params params;
    struct fathom_seq seq;
    fathom_model *model;
    fathom_runner *runner;
    const char *root = getenv("FATHOM_SOURCE_ROOT");
    char path[4096];
    snprintf(path, sizeof path, "%s/tools/needle/needle.gguf", root != NULL ? root : ".");
    write_text(&needles);
    emu_begin(&emu_modes[0]);
    fathom_device *device = gpu_rig_open();
    fathom_model_params_init(&model_params);
    model_params.device = device;
    check_ok(fathom_model_open(path, &model_params, &model));
    fathom_runner_params_init(&params, model);
    params.n_tokens_max = N_CTX;
    check_ok(fathom_runner_open(model, &params, &runner));
    check_ok(fathom_seq_create(fathom_runner_engine(runner), &seq));
    feed(runner, seq, needles.text, true, NULL);
    for (int i = 0; i < N_VALUES; i++)
        check_answer(runner, seq, i, needles.values[i]);
    fathom_runner_close(&runner);
    fathom_model_close(&model);
    fathom_device_close(&device);
    assert_int_equal(emu_end(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_needles),
    };
    return gpu_run("gpu_needle", tests, sizeof tests / sizeof *tests);
}
