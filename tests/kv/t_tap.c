// The tap shows rows as the cache holds them: an engine that does not rotate, fed with them, gives
// the same bits as the one that was tapped.

#include "tests/kv/kv_rig.h"

#include <string.h>

enum { SEED = 7, N_LAYERS = 2, N_HEADS = 4, N_KV_HEADS = 2, D_K = 16, D_V = 8, N_TOKENS = 40 };
enum { Q_VALUES = N_HEADS * D_K, K_VALUES = N_KV_HEADS * D_K, V_VALUES = N_KV_HEADS * D_V };

// What was seen, by layer, each token at its place.
struct seen {
    struct fathom_seq seq;
    uint32_t n_calls;
    float k[N_LAYERS][N_TOKENS][K_VALUES];
    float v[N_LAYERS][N_TOKENS][V_VALUES];
    float q[N_LAYERS][N_TOKENS][Q_VALUES];
};

static void see(const struct fathom_tap_args *args, void *user)
{
    struct seen *seen = user;
    assert_true(args->layer < N_LAYERS && args->first_token + args->n_tokens <= N_TOKENS);
    assert_memory_equal(&args->seq, &seen->seq, sizeof args->seq);
    float *const places[] = {seen->k[args->layer][args->first_token],
                             seen->v[args->layer][args->first_token],
                             seen->q[args->layer][args->first_token]};
    const size_t values[] = {K_VALUES, V_VALUES, Q_VALUES};
    memcpy(places[args->kind], args->rows, args->n_tokens * values[args->kind] * sizeof(float));
    seen->n_calls++;
}

static struct fathom_engine_params params_with(int32_t pairing)
{
    struct fathom_engine_params p =
        rig_params(&(struct rig_sizes){N_LAYERS, N_HEADS, N_KV_HEADS, D_K, N_TOKENS, N_TOKENS});
    p.d_v = D_V;
    p.rope.pairing = pairing;
    return p;
}

static void step(fathom_engine *engine, struct fathom_seq seq, uint32_t n, const float *k,
                 const float *v, const float *q, float *out)
{
    check_ok(fathom_step_begin(engine, seq, n));
    for (uint32_t layer = 0; layer < N_LAYERS; layer++) {
        check_ok(fathom_append(engine, seq, layer, k, v));
        check_ok(fathom_attend(engine, seq, layer, q, out + layer * n * N_HEADS * D_V));
    }
    check_ok(fathom_step_end(engine, seq));
}

// The same step with the rows that were seen, which layers do not share.
static void step_seen(fathom_engine *engine, struct fathom_seq seq, uint32_t first, uint32_t n,
                      const struct seen *seen, float *out)
{
    check_ok(fathom_step_begin(engine, seq, n));
    for (uint32_t layer = 0; layer < N_LAYERS; layer++) {
        check_ok(fathom_append(engine, seq, layer, seen->k[layer][first], seen->v[layer][first]));
        check_ok(fathom_attend(engine, seq, layer, seen->q[layer][first],
                               out + layer * n * N_HEADS * D_V));
    }
    check_ok(fathom_step_end(engine, seq));
}

static void t_rows(void **state)
{
    (void)state;
    static struct seen seen;
    static float k[N_TOKENS * K_VALUES], v[N_TOKENS * V_VALUES], q[N_TOKENS * Q_VALUES];
    static float out[N_LAYERS * N_TOKENS * N_HEADS * D_V], again[sizeof out / sizeof *out];
    static const uint32_t steps[] = {17, 1, 1, 20, 1};
    const struct fathom_engine_params turned = params_with(FATHOM_ROPE_HALVES);
    const struct fathom_engine_params plain = params_with(FATHOM_ROPE_NONE);
    fathom_device *device;
    fathom_engine *engine, *other;
    struct fathom_seq seq;
    rig_open(&turned, &device, &engine);
    check_ok(fathom_engine_open(device, &plain, &other));
    check_ok(fathom_seq_create(engine, &seen.seq));
    check_ok(fathom_seq_create(other, &seq));
    check_ok(fathom_engine_tap(engine, see, &seen));
    struct rng rng;
    rng_init(&rng, SEED);
    for (uint32_t i = 0, first = 0; i < sizeof steps / sizeof steps[0]; first += steps[i++]) {
        rig_fill(&rng, k, steps[i] * (size_t)K_VALUES);
        rig_fill(&rng, v, steps[i] * (size_t)V_VALUES);
        rig_fill(&rng, q, steps[i] * (size_t)Q_VALUES);
        step(engine, seen.seq, steps[i], k, v, q, out);
        step_seen(other, seq, first, steps[i], &seen, again);
        assert_memory_equal(out, again, N_LAYERS * steps[i] * N_HEADS * D_V * sizeof *out);
        if (first > 0) assert_memory_not_equal(seen.k[0][first], k, K_VALUES * sizeof *k);
        assert_memory_equal(seen.v[0][first], v, V_VALUES * sizeof *v);
    }
    // Nothing is shown once the tap is off.
    const uint32_t n_calls = seen.n_calls;
    assert_int_equal(n_calls, 3 * N_LAYERS * (sizeof steps / sizeof steps[0]));
    check_ok(fathom_engine_tap(engine, NULL, NULL));
    check_ok(fathom_seq_truncate(engine, seen.seq, 0));
    step(engine, seen.seq, 1, k, v, q, out);
    assert_int_equal(seen.n_calls, n_calls);
    fathom_engine_close(&other);
    rig_close(&device, &engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(t_rows)};
    return check_run("tap", tests, sizeof tests / sizeof tests[0]);
}
