// What `fathom bench attend` is fed with: half floats of records, synthetic rows; and the defaults
// of the cache's flags.

#include "tests/check.h"

#include <math.h>
#include <string.h>

#include "src/base/half.h"
#include "tools/f16.h"
#include "tools/kv_flags.h"
#include "tools/synthetic_kv.h"

static void t_f16(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 65536; i++) {
        uint16_t half = (uint16_t)i, back;
        float value, wanted = half_to_float(half);
        f16_to_floats(&value, &half, 1);
        f16_from_floats(&back, &value, 1);
        if (wanted != wanted) {
            assert_true(value != value && (back & 0x7c00) == 0x7c00 && (back & 0x3ff) != 0);
            continue;
        }
        assert_memory_equal(&value, &wanted, sizeof value);
        assert_int_equal(back, half);
    }
    // Every exponent, and mantissas on both sides of the roundings.
    for (uint64_t bits = 0; bits < 1ull << 32; bits += 4093) {
        const uint32_t word = (uint32_t)bits;
        float value;
        uint16_t half;
        memcpy(&value, &word, sizeof value);
        f16_from_floats(&half, &value, 1);
        if (value == value) assert_int_equal(half, half_from_float(value));
    }
}

static void t_flag_defaults(void **state)
{
    (void)state;
    const struct kv_options options = KV_OPTION_DEFAULTS;
    struct fathom_kv_params kv, wanted;
    int32_t kv_type = FATHOM_TYPE_F32;
    fathom_kv_params_init(&wanted);
    assert_int_equal(kv_flags_read(&options, &kv, &kv_type), 0);
    assert_int_equal(kv_type, FATHOM_TYPE_F32);
    assert_memory_equal(&kv, &wanted, sizeof kv);
}

static void t_flag_values(void **state)
{
    (void)state;
    struct kv_options options = KV_OPTION_DEFAULTS;
    struct fathom_kv_params kv;
    int32_t kv_type = FATHOM_TYPE_F32;
    options.mode = "stream";
    options.prefill = "sparse";
    options.selector = "flat";
    options.rank_by = "box";
    options.stage2 = "q8";
    options.budget = "3K";
    options.coverage = "0.9,bound";
    options.verify = "25%";
    options.type = "q2";
    options.segment = (struct flag_counts){{64}, 1};
    options.disk_bytes = 1;
    assert_int_equal(kv_flags_read(&options, &kv, &kv_type), 0);
    assert_int_equal(kv.mode, FATHOM_KV_STREAM);
    assert_int_equal(kv.prefill, FATHOM_PREFILL_SPARSE);
    assert_int_equal(kv.selector, FATHOM_SELECTOR_FLAT);
    assert_int_equal(kv.rank_by, FATHOM_RANK_BOX);
    assert_int_equal(kv.stage2_bits, 8);
    assert_int_equal(kv.budget_tokens, 3072);
    assert_true(kv.coverage == 0.9f && kv.coverage_bound && kv.verify_share == 0.25f);
    assert_int_equal(kv.codec, FATHOM_CODEC_Q2);
    assert_int_equal(kv_type, FATHOM_TYPE_F32);
    assert_true(kv.n_segment == 64 && kv.n_merged == 512);
    assert_string_equal(kv.disk_path, KV_DISK_PATH);
    options.type = "bf16";
    options.budget = "12.5%";
    assert_int_equal(kv_flags_read(&options, &kv, &kv_type), 0);
    assert_true(kv.codec == FATHOM_CODEC_PLAIN && kv_type == FATHOM_TYPE_BF16);
    assert_true(kv.budget_tokens == 0 && kv.budget_share == 0.125f);
}

enum { N_TOKENS = 3000, N_STEPS = 40, D = 32, N_KV = 2, N_HEADS = 4, ROW = N_KV * D };
static const struct kv_shape shape = {2, N_HEADS, N_KV, D, D};

static float dot(const float *a, const float *b)
{
    float sum = 0;
    for (int i = 0; i < D; i++)
        sum += a[i] * b[i];
    return sum;
}

// Made in one go by one thread, and in pieces by three: the same.
static void t_synthetic_same(void **state)
{
    (void)state;
    static float k[2][N_TOKENS * ROW], v[2][N_TOKENS * ROW];
    struct team *teams[2];
    struct synthetic_kv *synths[2];
    struct kv_source sources[2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(team_open(i == 0 ? 1 : 3, &teams[i]), 0);
        assert_int_equal(synthetic_kv_open(&shape, N_TOKENS, N_STEPS, 5, teams[i], &synths[i]), 0);
        sources[i] = synthetic_kv_source(synths[i]);
        const uint32_t piece = i == 0 ? N_TOKENS : 250;
        for (uint32_t t = 0; t < N_TOKENS; t += piece)
            sources[i].rows(sources[i].self, 1, t, piece, k[i] + t * ROW, v[i] + t * ROW);
    }
    assert_memory_equal(k[0], k[1], sizeof k[0]);
    assert_memory_equal(v[0], v[1], sizeof v[0]);
    assert_int_equal(sources[0].places[0], N_TOKENS);
    float other[ROW], q[2][N_HEADS * D];
    sources[0].rows(sources[0].self, 0, 7, 1, other, v[1]);
    assert_memory_not_equal(other, k[0] + 7 * ROW, sizeof other); // another layer
    for (int i = 0; i < 2; i++)
        sources[i].queries(sources[i].self, 1, 3, q[i]);
    assert_memory_equal(q[0], q[1], sizeof q[0]);
    for (int i = 0; i < 2; i++) {
        synthetic_kv_close(&synths[i]);
        team_close(&teams[i]);
    }
}

// Keys near each other in the text are alike more than others, and queries find few keys: the best
// 5 % hold more than half of the attention, on average.
static void t_synthetic_structure(void **state)
{
    (void)state;
    static float k[N_TOKENS * ROW], v[N_TOKENS * ROW];
    static double weights[N_TOKENS];
    struct team *team;
    struct synthetic_kv *synth;
    assert_int_equal(team_open(2, &team), 0);
    assert_int_equal(synthetic_kv_open(&shape, N_TOKENS, N_STEPS, 5, team, &synth), 0);
    const struct kv_source source = synthetic_kv_source(synth);
    source.rows(source.self, 0, 0, N_TOKENS, k, v);
    double near = 0, far = 0, share = 0;
    for (int t = 0; t + 1 < N_TOKENS; t++) {
        near += (double)dot(k + t * ROW, k + (t + 1) * ROW) / N_TOKENS;
        far += (double)dot(k + t * ROW, k + (t * 7919 + 1500) % N_TOKENS * ROW) / N_TOKENS;
    }
    print_message("<k, k'>: %.1f of neighbours, %.1f of others\n", near, far);
    assert_true(near > far + 0.5 * D);
    for (uint32_t step = 0; step < N_STEPS; step++) {
        float q[N_HEADS * D];
        double sum = 0, best = 0;
        source.queries(source.self, 0, step, q);
        for (int t = 0; t < N_TOKENS; t++) {
            weights[t] = exp((double)dot(q, k + t * ROW) / sqrt(D));
            sum += weights[t];
        }
        for (int i = 0; i < N_TOKENS / 20; i++) {
            int top = 0;
            for (int t = 1; t < N_TOKENS; t++)
                if (weights[t] > weights[top]) top = t;
            best += weights[top];
            weights[top] = 0;
        }
        share += best / sum / N_STEPS;
    }
    print_message("the best 5 %% of the keys hold %.3f of the attention\n", share);
    assert_true(share > 0.5 && share < 1);
    synthetic_kv_close(&synth);
    team_close(&team);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t_f16),
        cmocka_unit_test(t_flag_defaults),
        cmocka_unit_test(t_flag_values),
        cmocka_unit_test(t_synthetic_same),
        cmocka_unit_test(t_synthetic_structure),
    };
    return check_run("kv_source", tests, sizeof tests / sizeof tests[0]);
}
