// The engine through its public API, against attention computed naively in double.

#include "tests/kv/kv_rig.h"

#include <math.h>
#include <string.h>

#include "src/base/mem.h"

enum { SEED = 20261121 };

static fathom_device *open_device(uint32_t n_threads, uint32_t isa_mask)
{
    struct fathom_device_params params;
    fathom_device *device;
    fathom_device_params_init(&params);
    params.name = "cpu";
    params.n_threads = n_threads;
    params.isa_mask = isa_mask;
    check_ok(fathom_device_open(&params, &device));
    return device;
}

// ---- The truth ----------------------------------------------------------------------------------

struct shape {
    uint32_t n_heads, n_kv_heads, d_k, d_v, n_window, n_rot;
    int32_t pairing;
};

static void rotate(double *x, const struct shape *s, uint32_t position, double base)
{
    if (s->pairing == FATHOM_ROPE_NONE) return;
    for (uint32_t i = 0; i < s->n_rot / 2; i++) {
        const uint32_t a = s->pairing == FATHOM_ROPE_ADJACENT ? 2 * i : i;
        const uint32_t b = s->pairing == FATHOM_ROPE_ADJACENT ? 2 * i + 1 : i + s->n_rot / 2;
        const double angle = position * pow(base, -2.0 * i / s->n_rot);
        const double xa = x[a], xb = x[b];
        x[a] = xa * cos(angle) - xb * sin(angle);
        x[b] = xa * sin(angle) + xb * cos(angle);
    }
}

static void load_rotated(double *out, const float *x, const struct shape *s, uint32_t position)
{
    for (uint32_t i = 0; i < s->d_k; i++)
        out[i] = x[i];
    rotate(out, s, position, 10000.0);
}

// One query head at one position over all keys: k [n, n_kv_heads, d_k], v [n, n_kv_heads, d_v].
static void attend_naive(const struct shape *s, const float *q, uint32_t position, uint32_t kv_head,
                         const float *k, const float *v, double *out)
{
    double query[256], key[256], sum = 0.0;
    double *weights;
    check_ok(mem_new(position + 1, sizeof *weights, "weights", &weights));
    load_rotated(query, q, s, position);
    const uint32_t first =
        s->n_window > 0 && position + 1 > s->n_window ? position + 1 - s->n_window : 0;
    for (uint32_t j = first; j <= position; j++) {
        double score = 0.0;
        load_rotated(key, k + ((size_t)j * s->n_kv_heads + kv_head) * s->d_k, s, j);
        for (uint32_t i = 0; i < s->d_k; i++)
            score += query[i] * key[i];
        weights[j] = exp(score / sqrt(s->d_k));
        sum += weights[j];
    }
    for (uint32_t i = 0; i < s->d_v; i++) {
        out[i] = 0.0;
        for (uint32_t j = first; j <= position; j++)
            out[i] += weights[j] / sum * v[((size_t)j * s->n_kv_heads + kv_head) * s->d_v + i];
    }
    mem_free(weights);
}

// ---- Running the engine -------------------------------------------------------------------------

static void fill_params(struct fathom_engine_params *p, const struct shape *s, uint32_t n_layers,
                        int32_t kv_type)
{
    fathom_engine_params_init(p);
    p->n_layers = n_layers;
    p->n_heads = s->n_heads;
    p->n_kv_heads = s->n_kv_heads;
    p->d_k = s->d_k;
    p->d_v = s->d_v;
    p->n_window = s->n_window;
    p->n_tokens_max = 5000;
    p->kv_type = kv_type;
    p->rope.pairing = s->pairing;
    p->rope.n_rot = s->n_rot;
}

// Feeds n tokens in steps of the given sizes (the last one repeats) to both layers; layer 1 gets
// the values of layer 0 times two, so that rows that stray into another layer show.
static void feed(fathom_engine *engine, struct fathom_seq seq, const struct shape *s, uint32_t from,
                 uint32_t to, const uint32_t *steps, const float *q, const float *k, const float *v,
                 float *out)
{
    float *twice;
    check_ok(mem_new((size_t)512 * s->n_kv_heads * s->d_v, sizeof *twice, "values", &twice));
    float *other;
    check_ok(mem_new((size_t)512 * s->n_heads * s->d_v, sizeof *other, "output", &other));
    for (uint32_t at = from; at < to;) {
        const uint32_t n = *steps < to - at ? *steps : to - at;
        const size_t n_v = (size_t)n * s->n_kv_heads * s->d_v;
        const float *v_at = v + (size_t)at * s->n_kv_heads * s->d_v;
        const float *k_at = k + (size_t)at * s->n_kv_heads * s->d_k;
        const float *q_at = q + (size_t)at * s->n_heads * s->d_k;
        float *out_at = out + (size_t)at * s->n_heads * s->d_v;
        for (size_t i = 0; i < n_v; i++)
            twice[i] = 2.0f * v_at[i];
        check_ok(fathom_step_begin(engine, seq, n));
        check_ok(fathom_append(engine, seq, 0, k_at, v_at));
        check_ok(fathom_attend(engine, seq, 0, q_at, out_at));
        check_ok(fathom_append(engine, seq, 1, k_at, twice));
        check_ok(fathom_attend(engine, seq, 1, q_at, other));
        check_ok(fathom_step_end(engine, seq));
        for (size_t i = 0; i < (size_t)n * s->n_heads * s->d_v; i++)
            assert_true(fabsf(other[i] - 2.0f * out_at[i]) <= 1e-5f * (1.0f + fabsf(other[i])));
        at += n;
        if (steps[1] != 0) steps++;
    }
    mem_free(twice);
    mem_free(other);
}

static void check_shape(const struct shape *s, int32_t kv_type, double tolerance, uint32_t n,
                        const uint32_t *steps)
{
    struct rng rng;
    struct fathom_engine_params params;
    fathom_engine *engine;
    struct fathom_seq seq;
    double want[256];
    float *out;
    fathom_device *device = open_device(2, FATHOM_ISA_ALL);
    rng_init(&rng, SEED);
    float *q = rig_values(&rng, (size_t)n * s->n_heads * s->d_k);
    float *k = rig_values(&rng, (size_t)n * s->n_kv_heads * s->d_k);
    float *v = rig_values(&rng, (size_t)n * s->n_kv_heads * s->d_v);
    check_ok(mem_new((size_t)n * s->n_heads * s->d_v, sizeof *out, "output", &out));
    fill_params(&params, s, 2, kv_type);
    check_ok(fathom_engine_open(device, &params, &engine));
    check_ok(fathom_seq_create(engine, &seq));
    feed(engine, seq, s, 0, n, steps, q, k, v, out);
    // Every 37th token and the last one; tolerance is absolute: values are normal, outputs below 4.
    for (uint32_t t = 0; t < n; t += t + 37 < n ? 37 : (n - 1 - t > 0 ? n - 1 - t : 1)) {
        for (uint32_t h = 0; h < s->n_heads; h++) {
            const size_t row = (size_t)t * s->n_heads + h;
            attend_naive(s, q + row * s->d_k, t, h / (s->n_heads / s->n_kv_heads), k, v, want);
            for (uint32_t i = 0; i < s->d_v; i++)
                if (!(fabs(out[row * s->d_v + i] - want[i]) <= tolerance))
                    fail_msg("token %u head %u value %u: %g, not %g", t, h, i,
                             (double)out[row * s->d_v + i], want[i]);
        }
    }
    rig_close(&device, &engine);
    mem_free(q);
    mem_free(k);
    mem_free(v);
    mem_free(out);
}

static const uint32_t mixed_steps[] = {1, 7, 64, 130, 1, 1, 300, 2, 0};

// Scores of normal vectors have spread 1, so an error of a key of relative size e moves a weight by
// about 3e, and an output by less than 10e: f32 1e-6 (sums) and f16 5e-4 (rounding of K and V).
static const double f32_tolerance = 3e-5;
static const double f16_tolerance = 5e-3;
static const double bf16_tolerance = 4e-2;

static void test_adjacent(void **state)
{
    (void)state;
    const struct shape s = {8, 2, 64, 64, 0, 64, FATHOM_ROPE_ADJACENT};
    check_shape(&s, FATHOM_TYPE_F32, f32_tolerance, 600, mixed_steps);
    check_shape(&s, FATHOM_TYPE_F16, f16_tolerance, 600, mixed_steps);
    check_shape(&s, FATHOM_TYPE_BF16, bf16_tolerance, 600, mixed_steps);
}

static void test_halves_partial(void **state)
{
    (void)state;
    const struct shape s = {6, 6, 40, 24, 0, 20, FATHOM_ROPE_HALVES};
    check_shape(&s, FATHOM_TYPE_F32, f32_tolerance, 300, mixed_steps);
}

static void test_window(void **state)
{
    (void)state;
    const struct shape s = {4, 1, 32, 32, 50, 32, FATHOM_ROPE_ADJACENT};
    check_shape(&s, FATHOM_TYPE_F32, f32_tolerance, 400, mixed_steps);
}

static void test_unrotated_mqa(void **state)
{
    (void)state;
    const struct shape s = {7, 1, 8, 16, 0, 0, FATHOM_ROPE_NONE};
    check_shape(&s, FATHOM_TYPE_F32, f32_tolerance, 200, mixed_steps);
}

// Long enough that decode cuts the keys into shares and merges them.
static void test_split_keys(void **state)
{
    (void)state;
    static const uint32_t steps[] = {512, 0};
    static const uint32_t tail[] = {512, 512, 512, 512, 512, 512, 512, 512, 1, 3, 0};
    const struct shape s = {2, 1, 16, 16, 0, 16, FATHOM_ROPE_ADJACENT};
    check_shape(&s, FATHOM_TYPE_F32, f32_tolerance, 4200, tail);
    check_shape(&s, FATHOM_TYPE_F16, f16_tolerance, 1100, steps);
}

// ---- Rules --------------------------------------------------------------------------------------

// Same values, whatever the number of threads and however a context was arrived at.
static void test_same_bits(void **state)
{
    (void)state;
    const struct shape s = {8, 2, 64, 64, 0, 64, FATHOM_ROPE_ADJACENT};
    static const uint32_t steps[] = {100, 28, 1, 0};
    const size_t n_out = (size_t)180 * s.n_heads * s.d_v;
    struct rng rng;
    float *out[2];
    rng_init(&rng, SEED);
    float *q = rig_values(&rng, (size_t)180 * s.n_heads * s.d_k);
    float *k = rig_values(&rng, (size_t)180 * s.n_kv_heads * s.d_k);
    float *v = rig_values(&rng, (size_t)180 * s.n_kv_heads * s.d_v);
    for (uint32_t i = 0; i < 2; i++) {
        struct fathom_engine_params params;
        fathom_engine *engine;
        struct fathom_seq seq;
        uint32_t n;
        fathom_device *device = open_device(i == 0 ? 1 : 3, FATHOM_ISA_ALL);
        check_ok(mem_new(n_out, sizeof(float), "output", &out[i]));
        fill_params(&params, &s, 2, FATHOM_TYPE_F16);
        check_ok(fathom_engine_open(device, &params, &engine));
        check_ok(fathom_seq_create(engine, &seq));
        feed(engine, seq, &s, 0, 180, steps, q, k, v, out[i]);
        // Again from the middle, over rows that truncation gave up.
        check_ok(fathom_seq_truncate(engine, seq, 128));
        memset(out[i] + (size_t)128 * s.n_heads * s.d_v, 0, 1000);
        feed(engine, seq, &s, 128, 180, steps + 2, q, k, v, out[i]);
        check_ok(fathom_seq_count(engine, seq, &n));
        assert_int_equal(n, 180);
        rig_close(&device, &engine);
    }
    assert_memory_equal(out[0], out[1], n_out * sizeof(float));
    mem_free(q);
    mem_free(k);
    mem_free(v);
    mem_free(out[0]);
    mem_free(out[1]);
}

// Steps of two sequences that stand at different positions may be open side by side.
static void test_interleaved(void **state)
{
    (void)state;
    enum { N_STEP = 3, N_AHEAD = 5, D = 8 };
    const struct shape s = {1, 1, D, D, 0, D, FATHOM_ROPE_ADJACENT};
    struct fathom_engine_params params;
    fathom_engine *engine;
    struct fathom_seq seqs[3]; // 1 and 2 are ahead of 0; 2 steps alone
    struct rng rng;
    float out[3][N_STEP * D];
    fathom_device *device = open_device(1, FATHOM_ISA_ALL);
    rng_init(&rng, SEED);
    float *x = rig_values(&rng, (N_AHEAD + N_STEP) * D);
    const float *next = x + (size_t)N_AHEAD * D;
    fill_params(&params, &s, 1, FATHOM_TYPE_F32);
    params.n_seqs_max = 3;
    check_ok(fathom_engine_open(device, &params, &engine));
    for (uint32_t i = 0; i < 3; i++) {
        check_ok(fathom_seq_create(engine, &seqs[i]));
        if (i == 0) continue;
        check_ok(fathom_step_begin(engine, seqs[i], N_AHEAD));
        check_ok(fathom_append(engine, seqs[i], 0, x, x));
        check_ok(fathom_step_end(engine, seqs[i]));
    }
    check_ok(fathom_step_begin(engine, seqs[1], N_STEP));
    check_ok(fathom_step_begin(engine, seqs[0], N_STEP));
    for (uint32_t i = 0; i < 3; i++) {
        if (i == 2) check_ok(fathom_step_begin(engine, seqs[2], N_STEP));
        check_ok(fathom_append(engine, seqs[i], 0, next, next));
        check_ok(fathom_attend(engine, seqs[i], 0, next, out[i]));
        check_ok(fathom_step_end(engine, seqs[i]));
    }
    assert_memory_equal(out[1], out[2], sizeof out[1]);
    assert_memory_not_equal(out[0], out[1], sizeof out[0]);
    rig_close(&device, &engine);
    mem_free(x);
}

static void test_misuse(void **state)
{
    (void)state;
    const struct shape s = {2, 1, 8, 8, 0, 8, FATHOM_ROPE_ADJACENT};
    struct fathom_engine_params params;
    fathom_engine *engine;
    struct fathom_seq a, b;
    float row[16] = {0};
    float out[16];
    fathom_device *device = open_device(1, FATHOM_ISA_ALL);
    fill_params(&params, &s, 2, FATHOM_TYPE_F16);
    params.n_tokens_max = 4;
    check_ok(fathom_engine_open(device, &params, &engine));
    assert_int_equal(fathom_engine_token_bytes(engine), 2 * 1 * (8 + 8) * 2);
    check_ok(fathom_seq_create(engine, &a));
    assert_int_equal(fathom_seq_create(engine, &b), FATHOM_EFULL);
    assert_int_equal(fathom_append(engine, a, 0, row, row), FATHOM_EINVAL);
    assert_int_equal(fathom_step_begin(engine, a, 0), FATHOM_EINVAL);
    assert_int_equal(fathom_step_begin(engine, a, 5), FATHOM_EFULL);
    check_ok(fathom_step_begin(engine, a, 1));
    assert_int_equal(fathom_step_begin(engine, a, 1), FATHOM_EINVAL);
    assert_int_equal(fathom_seq_truncate(engine, a, 0), FATHOM_EINVAL);
    assert_int_equal(fathom_attend(engine, a, 0, row, out), FATHOM_EINVAL);
    check_ok(fathom_append(engine, a, 0, row, row));
    assert_int_equal(fathom_append(engine, a, 0, row, row), FATHOM_EINVAL);
    assert_int_equal(fathom_append(engine, a, 2, row, row), FATHOM_EINVAL);
    assert_int_equal(fathom_step_end(engine, a), FATHOM_EINVAL);
    check_ok(fathom_append(engine, a, 1, row, row));
    check_ok(fathom_step_end(engine, a));
    check_error(fathom_seq_truncate(engine, a, 2), FATHOM_EINVAL, "has 1 tokens");
    check_ok(fathom_step_begin(engine, a, 3));
    fathom_step_cancel(engine, a);
    check_ok(fathom_seq_free(engine, a));
    assert_int_equal(fathom_step_begin(engine, a, 1), FATHOM_EINVAL);
    assert_int_equal(fathom_seq_free(engine, a), FATHOM_EINVAL);
    check_ok(fathom_seq_create(engine, &b));
    assert_int_equal(fathom_seq_truncate(engine, a, 0), FATHOM_EINVAL);
    fathom_engine_close(&engine);
    rig_close(&device, &engine);
}

static void test_bad_params(void **state)
{
    (void)state;
    const struct shape s = {2, 1, 8, 8, 0, 8, FATHOM_ROPE_ADJACENT};
    static const float divisors[] = {1.0f, 0.0f, 1.0f, 1.0f};
    struct fathom_engine_params good;
    fill_params(&good, &s, 2, FATHOM_TYPE_F16);
#define EXPECT_BAD(change, word)                                                                   \
    do {                                                                                           \
        struct fathom_engine_params p = good;                                                      \
        change;                                                                                    \
        rig_refuses(&p, word);                                                                     \
    } while (0)
    EXPECT_BAD(p.struct_bytes = 3, "struct_bytes");
    EXPECT_BAD(p.n_layers = 0, "n_layers");
    EXPECT_BAD(p.n_kv_heads = 3, "n_kv_heads");
    EXPECT_BAD(p.d_k = 257, "d_k");
    EXPECT_BAD(p.n_tokens_max = 0, "n_tokens_max");
    EXPECT_BAD(p.kv_type = FATHOM_TYPE_Q8_0, "kv_type");
    EXPECT_BAD(p.scale = -1.0f, "scale");
    EXPECT_BAD(p.rope.n_rot = 7, "n_rot");
    EXPECT_BAD(p.rope.base = 0.0f, "base");
    EXPECT_BAD(p.rope.factor = 0.5f, "factor");
    EXPECT_BAD(p.rope.scaling = FATHOM_ROPE_SCALING_YARN, "n_orig_tokens");
    EXPECT_BAD(p.rope.divisors = divisors, "divisors[1]");
    EXPECT_BAD((p.rope.divisors = divisors, p.rope.n_rot = 0), "divisors[1]");
    EXPECT_BAD(p.rope.scaling = FATHOM_ROPE_SCALING_LONGROPE, "divisors");
}

// The CPU has none to wait for.
static void test_no_streams(void **state)
{
    (void)state;
    int stream = 0;
    fathom_device *device = open_device(1, FATHOM_ISA_ALL);
    check_error(fathom_device_wait_stream(device, &stream), FATHOM_EUNSUPPORTED, "no streams");
    check_error(fathom_stream_wait_device(device, &stream), FATHOM_EUNSUPPORTED, "no streams");
    check_error(fathom_stream_wait_device(NULL, &stream), FATHOM_EINVAL, "no device");
    fathom_device_close(&device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adjacent),    cmocka_unit_test(test_halves_partial),
        cmocka_unit_test(test_window),      cmocka_unit_test(test_unrotated_mqa),
        cmocka_unit_test(test_split_keys),  cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_interleaved), cmocka_unit_test(test_misuse),
        cmocka_unit_test(test_bad_params),  cmocka_unit_test(test_no_streams),
    };
    printf("seed %d\n", SEED);
    return check_run("engine", tests, sizeof tests / sizeof *tests);
}
