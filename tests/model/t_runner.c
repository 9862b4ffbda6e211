// The forward pass end to end, against the reference run of a real trained model (stories260K), and
// the rules of feeding.

#include "tests/model/story_rig.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

static void open_rig(struct story_rig *rig, const char *path, uint32_t n_threads, uint32_t isa_mask,
                     uint32_t n_tokens_max)
{
    struct fathom_device_params params;
    fathom_device *device;
    fathom_device_params_init(&params);
    params.n_threads = n_threads;
    params.isa_mask = isa_mask;
    check_ok(fathom_device_open(&params, &device));
    story_open(rig, path, device, FATHOM_LAYERS_ALL, n_tokens_max);
}

static double divergence(const float *p_logits, const float *q_logits)
{
    double p_sum = 0.0, q_sum = 0.0, kl = 0.0;
    for (int i = 0; i < STORY_VOCAB; i++)
        p_sum += exp((double)p_logits[i]);
    for (int i = 0; i < STORY_VOCAB; i++)
        q_sum += exp((double)q_logits[i]);
    for (int i = 0; i < STORY_VOCAB; i++)
        kl += exp((double)p_logits[i]) / p_sum *
              ((double)p_logits[i] - log(p_sum) - (double)q_logits[i] + log(q_sum));
    return kl;
}

// ---- Tests --------------------------------------------------------------------------------------

static void check_f32(uint32_t isa_mask)
{
    struct story_rig rig;
    int32_t ids[STORY_STEPS];
    float *want;
    double worst = 0.0;
    const char *path = story_convert("f32"); // may skip the test: before anything is taken
    story_reference(&want, ids);
    float *got = story_logits();
    open_rig(&rig, path, 2, isa_mask, 512);
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
    printf("isa mask %x: largest error of a logit %.2g\n", isa_mask, worst);
    assert_true(worst <= 1e-3);
    story_close(&rig);
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
    struct story_rig rig;
    int32_t ids[STORY_STEPS];
    float *want;
    double sum = 0.0, worst = 0.0;
    const char *path = story_convert("q8_0"); // may skip the test: before anything is taken
    story_reference(&want, ids);
    float *got = story_logits();
    open_rig(&rig, path, 2, FATHOM_ISA_ALL, 512);
    unlink(path);
    story_run(&rig, ids, got);
    for (int i = 0; i < STORY_STEPS; i++) {
        const double kl = divergence(want + i * STORY_VOCAB, got + i * STORY_VOCAB);
        sum += kl;
        worst = kl > worst || isnan(kl) ? kl : worst;
    }
    printf("Q8_0: KL divergence a step: mean %.2g, largest %.2g\n", sum / STORY_STEPS, worst);
    assert_true(sum / STORY_STEPS < 1e-3 && worst < 1e-2);
    story_close(&rig);
    mem_free(want);
    mem_free(got);
}

// A prompt in chunks of any size gives what one token at a time gives, but for the order of sums;
// other threads give the same bits.
static void test_chunks_and_threads(void **state)
{
    (void)state;
    static const uint32_t chunks[] = {1, 2, 13, 40, 200};
    struct story_rig rig;
    int32_t ids[STORY_STEPS];
    float *want;
    float last[STORY_VOCAB];
    const char *path = story_convert("f32");
    story_reference(&want, ids);
    float *got = story_logits();
    float *again = story_logits();
    memmove(ids + 1, ids, (STORY_STEPS - 1) * sizeof *ids);
    ids[0] = 1;
    for (uint32_t n_threads = 1; n_threads <= 3; n_threads += 2) {
        uint32_t at = 0;
        float *out = n_threads == 1 ? got : again;
        open_rig(&rig, path, n_threads, FATHOM_ISA_ALL, STORY_STEPS);
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
            check_ok(fathom_runner_feed(rig.runner, rig.seq, ids + at, chunks[c], last,
                                        out + (size_t)at * STORY_VOCAB));
            at += chunks[c];
            assert_memory_equal(last, out + (size_t)(at - 1) * STORY_VOCAB, sizeof last);
        }
        assert_int_equal(at, STORY_STEPS);
        // The context is full now; a failed call changes nothing.
        assert_int_equal(fathom_runner_feed(rig.runner, rig.seq, ids, 1, NULL, NULL), FATHOM_EFULL);
        check_ok(fathom_seq_truncate(fathom_runner_engine(rig.runner), rig.seq, STORY_STEPS - 1));
        check_ok(fathom_runner_feed(rig.runner, rig.seq, ids + STORY_STEPS - 1, 1, last, NULL));
        for (int j = 0; j < STORY_VOCAB; j++)
            assert_true(fabsf(last[j] - out[(STORY_STEPS - 1) * STORY_VOCAB + j]) < 1e-4f);
        story_close(&rig);
    }
    unlink(path);
    for (int i = 0; i < STORY_STEPS * STORY_VOCAB; i++)
        assert_true(fabsf(got[i] - want[i]) <= 1e-3f);
    assert_memory_equal(got, again, STORY_STEPS * STORY_VOCAB * sizeof *got);
    mem_free(want);
    mem_free(got);
    mem_free(again);
}

// Fed and picked at once: as fed, and then picked from the logits.
static void test_picks(void **state)
{
    (void)state;
    enum { N = 32 };
    struct story_rig rig;
    struct fathom_sampler_params params;
    fathom_sampler *at_once, *after, *other;
    float logits[STORY_VOCAB];
    int32_t ids[N + 1] = {1}, want, id = 1;
    const char *path = story_convert("f32");
    fathom_sampler_params_init(&params);
    params.top_p = 1.0f;
    params.seed = 3;
    check_ok(fathom_sampler_open(&params, STORY_VOCAB, &at_once));
    check_ok(fathom_sampler_open(&params, STORY_VOCAB, &after));
    check_ok(fathom_sampler_open(&params, STORY_VOCAB - 1, &other));
    open_rig(&rig, path, 1, FATHOM_ISA_ALL, N);
    for (int i = 0; i < N; i++) {
        check_ok(fathom_runner_feed_pick(rig.runner, rig.seq, &id, 1, at_once, &id));
        ids[i + 1] = id;
    }
    assert_int_equal(fathom_runner_feed_pick(rig.runner, rig.seq, &id, 1, at_once, &id),
                     FATHOM_EFULL);
    check_ok(fathom_seq_truncate(fathom_runner_engine(rig.runner), rig.seq, 0));
    for (int i = 0; i < N; i++) {
        check_ok(fathom_runner_feed(rig.runner, rig.seq, ids + i, 1, logits, NULL));
        check_ok(fathom_sampler_pick(after, logits, &want));
        assert_int_equal(ids[i + 1], want);
    }
    assert_int_equal(fathom_runner_feed_pick(rig.runner, rig.seq, &id, 1, other, &id),
                     FATHOM_EINVAL);
    assert_non_null(strstr(fathom_last_error(), "511"));
    fathom_sampler_close(&at_once);
    fathom_sampler_close(&after);
    fathom_sampler_close(&other);
    story_close(&rig);
    unlink(path);
}

static void test_misuse(void **state)
{
    (void)state;
    struct story_rig rig;
    struct fathom_model_params params;
    fathom_model *vocabulary;
    const int32_t bad[] = {1, STORY_VOCAB};
    uint32_t n;
    const char *path = story_convert("f16");
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
    story_close(&rig);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_kernels),
        cmocka_unit_test(test_avx2_kernels),
        cmocka_unit_test(test_best_kernels),
        cmocka_unit_test(test_q8_0),
        cmocka_unit_test(test_chunks_and_threads),
        cmocka_unit_test(test_picks),
        cmocka_unit_test(test_misuse),
    };
    return check_run("runner", tests, sizeof tests / sizeof *tests);
}
