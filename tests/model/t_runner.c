// The forward pass end to end, against the reference run of a real trained model (stories260K), and
// the rules of feeding.

#include "tests/check.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#include "fathom/model.h"
#include "src/base/mem.h"

enum { N_STEPS = 256, N_VOCAB = 512 };

// ---- The reference ------------------------------------------------------------------------------

static float *new_logits(void)
{
    float *logits;
    check_ok(mem_new(N_STEPS * N_VOCAB, sizeof *logits, "logits", &logits));
    return logits;
}

// *logits [N_STEPS, N_VOCAB]: gives. Skips the test when there is no reference.
static void read_reference(float **logits, int32_t *ids)
{
    FILE *file = fopen(check_data("stories260K/greedy_logits_256x512.f32"), "rb");
    assert_non_null(file);
    *logits = new_logits();
    assert_int_equal(fread(*logits, sizeof **logits, N_STEPS * N_VOCAB, file), N_STEPS * N_VOCAB);
    fclose(file);
    file = fopen(check_data("stories260K/greedy_ids_256.txt"), "r");
    assert_non_null(file);
    for (int i = 0; i < N_STEPS; i++)
        assert_int_equal(fscanf(file, "%d", &ids[i]), 1);
    fclose(file);
}

// Converts the checkpoint; the caller unlinks the file.
static const char *convert(const char *type)
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

struct rig {
    fathom_device *device;
    fathom_model *model;
    fathom_runner *runner;
    struct fathom_seq seq;
};

static void open_rig(struct rig *rig, const char *path, uint32_t n_threads, uint32_t isa_mask,
                     uint32_t n_tokens_max)
{
    struct fathom_device_params device;
    struct fathom_model_params model;
    struct fathom_runner_params runner;
    fathom_device_params_init(&device);
    device.n_threads = n_threads;
    device.isa_mask = isa_mask;
    check_ok(fathom_device_open(&device, &rig->device));
    fathom_model_params_init(&model);
    model.device = rig->device;
    check_ok(fathom_model_open(path, &model, &rig->model));
    fathom_runner_params_init(&runner, rig->model);
    runner.n_tokens_max = n_tokens_max;
    runner.kv_type = FATHOM_TYPE_F32;
    check_ok(fathom_runner_open(rig->model, &runner, &rig->runner));
    check_ok(fathom_seq_create(fathom_runner_engine(rig->runner), &rig->seq));
}

static void close_rig(struct rig *rig)
{
    fathom_runner_close(&rig->runner);
    fathom_model_close(&rig->model);
    fathom_device_close(&rig->device);
}

// Feeds BOS and then the ids, one at a time; logits [N_STEPS, N_VOCAB].
static void run_steps(struct rig *rig, const int32_t *ids, float *logits)
{
    for (int i = 0; i < N_STEPS; i++) {
        const int32_t id = i == 0 ? 1 : ids[i - 1];
        check_ok(fathom_runner_feed(rig->runner, rig->seq, &id, 1, logits + i * N_VOCAB, NULL));
    }
}

static int32_t best(const float *logits)
{
    int32_t id = 0;
    for (int32_t i = 1; i < N_VOCAB; i++)
        if (logits[i] > logits[id]) id = i;
    return id;
}

static double divergence(const float *p_logits, const float *q_logits)
{
    double p_sum = 0.0, q_sum = 0.0, kl = 0.0;
    for (int i = 0; i < N_VOCAB; i++)
        p_sum += exp((double)p_logits[i]);
    for (int i = 0; i < N_VOCAB; i++)
        q_sum += exp((double)q_logits[i]);
    for (int i = 0; i < N_VOCAB; i++)
        kl += exp((double)p_logits[i]) / p_sum *
              ((double)p_logits[i] - log(p_sum) - (double)q_logits[i] + log(q_sum));
    return kl;
}

// ---- Tests --------------------------------------------------------------------------------------

static void check_f32(uint32_t isa_mask)
{
    struct rig rig;
    int32_t ids[N_STEPS];
    float *want;
    double worst = 0.0;
    const char *path = convert("f32"); // may skip the test: before anything is taken
    read_reference(&want, ids);
    float *got = new_logits();
    open_rig(&rig, path, 2, isa_mask, 512);
    unlink(path);
    run_steps(&rig, ids, got);
    for (int i = 0; i < N_STEPS; i++) {
        assert_int_equal(best(got + i * N_VOCAB), ids[i]);
        for (int j = 0; j < N_VOCAB; j++) {
            const double error = fabs((double)got[i * N_VOCAB + j] - (double)want[i * N_VOCAB + j]);
            worst = error > worst || isnan(error) ? error : worst;
        }
    }
    printf("isa mask %x: largest error of a logit %.2g\n", isa_mask, worst);
    assert_true(worst <= 1e-3);
    close_rig(&rig);
    mem_free(want);
    mem_free(got);
}

static void test_reference_kernels(void **state)
{
    (void)state;
    check_f32(0);
}

static void test_avx2_kernels(void **state)
{
    (void)state;
    check_f32(FATHOM_ISA_AVX2);
}

static void test_best_kernels(void **state)
{
    (void)state;
    check_f32(FATHOM_ISA_ALL);
}

// Weights of 8 bit move the distributions a little; 0.01 nats is far from harmless only in the
// mean.
static void test_q8_0(void **state)
{
    (void)state;
    struct rig rig;
    int32_t ids[N_STEPS];
    float *want;
    double sum = 0.0, worst = 0.0;
    const char *path = convert("q8_0"); // may skip the test: before anything is taken
    read_reference(&want, ids);
    float *got = new_logits();
    open_rig(&rig, path, 2, FATHOM_ISA_ALL, 512);
    unlink(path);
    run_steps(&rig, ids, got);
    for (int i = 0; i < N_STEPS; i++) {
        const double kl = divergence(want + i * N_VOCAB, got + i * N_VOCAB);
        sum += kl;
        worst = kl > worst || isnan(kl) ? kl : worst;
    }
    printf("Q8_0: KL divergence a step: mean %.2g, largest %.2g\n", sum / N_STEPS, worst);
    assert_true(sum / N_STEPS < 1e-3 && worst < 1e-2);
    close_rig(&rig);
    mem_free(want);
    mem_free(got);
}

// A prompt in chunks of any size gives what one token at a time gives, but for the order of sums;
// other threads give the same bits.
static void test_chunks_and_threads(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {1, 2, 13, 40, 200};
    struct rig rig;
    int32_t ids[N_STEPS];
    float *want;
    float last[N_VOCAB];
    const char *path = convert("f32");
    read_reference(&want, ids);
    float *got = new_logits();
    float *again = new_logits();
    memmove(ids + 1, ids, (N_STEPS - 1) * sizeof *ids);
    ids[0] = 1;
    for (uint32_t n_threads = 1; n_threads <= 3; n_threads += 2) {
        uint32_t at = 0;
        float *out = n_threads == 1 ? got : again;
        open_rig(&rig, path, n_threads, FATHOM_ISA_ALL, N_STEPS);
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
            check_ok(fathom_runner_feed(rig.runner, rig.seq, ids + at, chunks[c], last,
                                        out + (size_t)at * N_VOCAB));
            at += chunks[c];
            assert_memory_equal(last, out + (size_t)(at - 1) * N_VOCAB, sizeof last);
        }
        assert_int_equal(at, N_STEPS);
        // The context is full now; a failed call changes nothing.
        assert_int_equal(fathom_runner_feed(rig.runner, rig.seq, ids, 1, NULL, NULL), FATHOM_EFULL);
        check_ok(fathom_seq_truncate(fathom_runner_engine(rig.runner), rig.seq, N_STEPS - 1));
        check_ok(fathom_runner_feed(rig.runner, rig.seq, ids + N_STEPS - 1, 1, last, NULL));
        for (int j = 0; j < N_VOCAB; j++)
            assert_true(fabsf(last[j] - out[(N_STEPS - 1) * N_VOCAB + j]) < 1e-4f);
        close_rig(&rig);
    }
    unlink(path);
    for (int i = 0; i < N_STEPS * N_VOCAB; i++)
        assert_true(fabsf(got[i] - want[i]) <= 1e-3f);
    assert_memory_equal(got, again, N_STEPS * N_VOCAB * sizeof *got);
    mem_free(want);
    mem_free(got);
    mem_free(again);
}

static void test_misuse(void **state)
{
    (void)state;
    struct rig rig;
    struct fathom_model_params params;
    fathom_model *vocabulary;
    const int32_t bad[] = {1, N_VOCAB};
    uint32_t n;
    const char *path = convert("f16");
    open_rig(&rig, path, 1, FATHOM_ISA_ALL, 512);
    fathom_engine *engine = fathom_runner_engine(rig.runner);
    assert_int_equal(fathom_runner_feed(rig.runner, rig.seq, bad, 2, NULL, NULL), FATHOM_EINVAL);
    assert_non_null(strstr(fathom_last_error(), "512"));
    assert_int_equal(fathom_runner_feed(rig.runner, rig.seq, bad, 0, NULL, NULL), FATHOM_EINVAL);
    check_ok(fathom_seq_count(engine, rig.seq, &n));
    assert_int_equal(n, 0);
    check_ok(fathom_runner_feed(rig.runner, rig.seq, bad, 1, NULL, NULL));
    fathom_model_params_init(&params);
    check_ok(fathom_model_open(path, &params, &vocabulary));
    struct fathom_runner_params runner_params;
    fathom_runner *runner = NULL;
    fathom_runner_params_init(&runner_params, vocabulary);
    assert_int_equal(fathom_runner_open(vocabulary, &runner_params, &runner), FATHOM_EINVAL);
    assert_null(runner);
    fathom_model_close(&vocabulary);
    close_rig(&rig);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_kernels),  cmocka_unit_test(test_avx2_kernels),
        cmocka_unit_test(test_best_kernels),       cmocka_unit_test(test_q8_0),
        cmocka_unit_test(test_chunks_and_threads), cmocka_unit_test(test_misuse),
    };
    return check_run("runner", tests, sizeof tests / sizeof *tests);
}
