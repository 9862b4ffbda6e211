// Collapsed positions against attention computed naively in double, where each key is turned to the
// place that it is to be seen at. Which tokens are sealed is read from the engine's inside.

#include "tests/kv/kv_rig.h"

#include <math.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/kv/engine.h"

enum {
    SEED = 20261130,
    N_LAYERS = 2,
    N_HEADS = 4,
    N_KV_HEADS = 2,
    D = 32,
    N_ROT = 24,
    N_MAX = 900,
    N_STEP = 48,
    N_SINK = 12,
    N_WINDOW = 40,
    N_SEGMENT = 64,
    FAR = N_WINDOW + 2 * N_SEGMENT,
};
static const double BASE = 10000.0, MAGNITUDE = 1.25;

// Rows of all tokens; those of another layer are a token further.
struct cache {
    fathom_device *device;
    fathom_engine *engine;
    float *k, *v, *q; // [N_MAX + N_LAYERS, heads, D]
    float *out;       // [N_STEP, N_HEADS, D]
    double tolerance;
    uint32_t n_compared, n_sealed; // attends compared; keys that were sealed in the last one
};

static struct fathom_engine_params base_params(void)
{
    struct fathom_engine_params p =
        rig_params(&(struct rig_sizes){N_LAYERS, N_HEADS, N_KV_HEADS, D, N_MAX, N_STEP});
    p.n_seqs_max = 2;
    p.kv_type = FATHOM_TYPE_F32;
    p.rope.pairing = FATHOM_ROPE_HALVES;
    p.rope.n_rot = N_ROT;
    p.rope.base = (float)BASE;
    p.rope.attn_factor = (float)MAGNITUDE;
    p.kv.mode = FATHOM_KV_SPARSE;
    p.kv.positions = FATHOM_POSITIONS_COLLAPSED;
    p.kv.n_sink = N_SINK;
    p.kv.n_window = N_WINDOW;
    p.kv.n_segment = N_SEGMENT;
    p.kv.n_merged = 4 * N_SEGMENT;
    p.kv.budget_share = 1.0f;
    return p;
}

static void open_cache(struct cache *c, const struct fathom_engine_params *p)
{
    struct rng rng;
    memset(c, 0, sizeof *c);
    rng_init(&rng, SEED);
    rig_open(p, &c->device, &c->engine);
    c->k = rig_values(&rng, (size_t)(N_MAX + N_LAYERS) * N_KV_HEADS * D);
    c->v = rig_values(&rng, (size_t)(N_MAX + N_LAYERS) * N_KV_HEADS * D);
    c->q = rig_values(&rng, (size_t)(N_MAX + N_LAYERS) * N_HEADS * D);
    c->out = rig_values(&rng, N_STEP * N_HEADS * D);
    // Float sums of some hundred weights, and keys turned twice: as in t_tiers.c. A key in f16 is
    // rounded in the tail and once sealed: by 2^-11 of itself, a score by some 2^-8.
    c->tolerance = p->kv_type == FATHOM_TYPE_F32 ? 5e-5 : 1e-2;
}

static void close_cache(struct cache *c)
{
    rig_close(&c->device, &c->engine);
    mem_free(c->k);
    mem_free(c->v);
    mem_free(c->q);
    mem_free(c->out);
}

// ---- The truth ----------------------------------------------------------------------------------

static void turn(double *out, const float *x, int32_t pairing, double position)
{
    for (uint32_t i = 0; i < D; i++)
        out[i] = (double)x[i];
    for (uint32_t i = 0; i < N_ROT / 2; i++) {
        const uint32_t a = pairing == FATHOM_ROPE_ADJACENT ? 2 * i : i;
        const uint32_t b = pairing == FATHOM_ROPE_ADJACENT ? 2 * i + 1 : i + N_ROT / 2;
        const double angle = position * pow(BASE, -2.0 * i / N_ROT);
        const double xa = MAGNITUDE * out[a], xb = MAGNITUDE * out[b];
        out[a] = xa * cos(angle) - xb * sin(angle);
        out[b] = xa * sin(angle) + xb * cos(angle);
    }
}

static double dot(const double *a, const double *b)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < D; i++)
        sum += a[i] * b[i];
    return sum;
}

// One query head of the token at `position`: tokens N_SINK .. sealed_end - 1 are FAR away; if there
// are any, sinks are seen from FAR.
static void attend(const struct cache *c, uint32_t layer, uint32_t head, uint32_t position,
                   uint32_t sealed_end, double *out)
{
    const int32_t pairing = c->engine->params.rope.pairing;
    const uint32_t kv_head = head / (N_HEADS / N_KV_HEADS);
    const float *q = c->q + ((size_t)(position + layer) * N_HEADS + head) * D;
    double near[D], far[D], key[D], sum = 0.0;
    turn(near, q, pairing, position);
    turn(far, q, pairing, FAR);
    memset(out, 0, D * sizeof *out);
    for (uint32_t j = 0; j <= position; j++) {
        const bool sealed = j >= N_SINK && j < sealed_end;
        const size_t row = (size_t)(j + layer) * N_KV_HEADS + kv_head;
        turn(key, c->k + row * D, pairing, sealed ? 0 : j);
        const bool is_far = sealed_end > N_SINK && j < sealed_end;
        const double weight = exp(dot(is_far ? far : near, key) / sqrt(D));
        sum += weight;
        for (uint32_t i = 0; i < D; i++)
            out[i] += weight * (double)c->v[row * D + i];
    }
    for (uint32_t i = 0; i < D; i++)
        out[i] /= sum;
}

static void compare(struct cache *c, struct fathom_seq seq, uint32_t layer, uint32_t first,
                    uint32_t t)
{
    const uint32_t sealed_end = c->engine->slots[seq.slot].sealed_end;
    double want[D];
    for (uint32_t head = 0; head < N_HEADS; head++) {
        if (check_few() && head != c->n_compared % N_HEADS) continue;
        attend(c, layer, head, first + t, sealed_end, want);
        for (uint32_t i = 0; i < D; i++)
            if (!(fabs((double)c->out[(t * N_HEADS + head) * D + i] - want[i]) <= c->tolerance))
                fail_msg("%s; token %u, %u sealed, layer %u, head %u: %g, not %g",
                         fathom_engine_plan(c->engine), first + t, sealed_end - N_SINK, layer, head,
                         (double)c->out[(t * N_HEADS + head) * D + i], want[i]);
    }
    c->n_compared++;
    c->n_sealed = sealed_end - N_SINK;
}

// A step of n tokens; its first and last are compared.
static void step(struct cache *c, struct fathom_seq seq, uint32_t n)
{
    uint32_t first;
    check_ok(fathom_seq_count(c->engine, seq, &first));
    check_ok(fathom_step_begin(c->engine, seq, n));
    for (uint32_t layer = 0; layer < N_LAYERS; layer++) {
        const size_t at = first + layer;
        check_ok(fathom_append(c->engine, seq, layer, c->k + at * N_KV_HEADS * D,
                               c->v + at * N_KV_HEADS * D));
        check_ok(fathom_attend(c->engine, seq, layer, c->q + at * N_HEADS * D, c->out));
        if (c->engine->params.kv.budget_share < 1.0f) continue;
        compare(c, seq, layer, first, 0);
        if (n > 1) compare(c, seq, layer, first, n - 1);
    }
    check_ok(fathom_step_end(c->engine, seq));
}

static uint32_t count(const struct cache *c, struct fathom_seq seq)
{
    uint32_t n;
    check_ok(fathom_seq_count(c->engine, seq, &n));
    return n;
}

static void go_to(struct cache *c, struct fathom_seq seq, uint32_t end, uint32_t n_step)
{
    for (uint32_t n = count(c, seq); n < end; n = count(c, seq))
        step(c, seq, n_step < end - n ? n_step : end - n);
}

// ---- Tests --------------------------------------------------------------------------------------

// Prefill, decode, and on after a fork and truncations: into the tail, a small segment and a merged
// one.
static void walk(const struct fathom_engine_params *p)
{
    struct cache c;
    struct fathom_seq seq, fork;
    open_cache(&c, p);
    check_ok(fathom_seq_create(c.engine, &seq));
    go_to(&c, seq, 400, N_STEP);
    go_to(&c, seq, 470, 1);
    assert_true(c.n_sealed >= 4 * N_SEGMENT);
    check_ok(fathom_seq_fork(c.engine, seq, &fork));
    check_ok(fathom_seq_truncate(c.engine, seq, 460));
    go_to(&c, seq, 464, 1);
    const uint32_t small = c.engine->slots[seq.slot].sealed_end - N_SEGMENT / 2;
    assert_int_equal(c.engine->slots[seq.slot].sealed[1].segment->size, SEGMENT_SMALL);
    check_ok(fathom_seq_truncate(c.engine, seq, small));
    assert_int_equal(c.engine->slots[seq.slot].sealed_end, small - N_SEGMENT / 2);
    go_to(&c, seq, 500, 1);
    check_ok(fathom_seq_truncate(c.engine, seq, 150));
    assert_int_equal(c.n_sealed > 0 ? c.engine->slots[seq.slot].sealed_end : 0, 150);
    go_to(&c, seq, 160, 1);
    go_to(&c, seq, 700, N_STEP);
    go_to(&c, fork, 480, 1);
    assert_true(c.n_compared > 300);
    close_cache(&c);
}

static void equals_naive(void **state)
{
    struct fathom_engine_params p = base_params();
    (void)state;
    for (int32_t i = 0; i < 6; i++) {
        p.kv.mode = i < 4 ? FATHOM_KV_SPARSE : FATHOM_KV_STREAM;
        p.kv.prefill = i % 2;
        p.kv.selector = i % 4;
        p.kv_type = i == 1 || i == 5 ? FATHOM_TYPE_F16 : FATHOM_TYPE_F32;
        p.rope.pairing = i % 3 == 0 ? FATHOM_ROPE_ADJACENT : FATHOM_ROPE_HALVES;
        walk(&p);
    }
}

// What the search says of scores holds for the queries that it was asked with: the bound of the
// coverage is one, and few keys cover more than their share.
static void picks_by_it(void **state)
{
    struct fathom_engine_params p = base_params();
    (void)state;
    p.kv.budget_share = 0.1f;
    p.kv.verify_share = 1.0f;
    for (int32_t i = 0; i < 4; i++) {
        struct cache c;
        struct fathom_seq seq;
        p.kv.selector = i;
        p.kv.n_unit = 4 * (i == FATHOM_SELECTOR_BLOCK);
        open_cache(&c, &p);
        check_ok(fathom_seq_create(c.engine, &seq));
        go_to(&c, seq, 700, N_STEP);
        for (uint32_t n = 701; n < 740; n++)
            go_to(&c, seq, n, 1);
        const struct fathom_kv_stats stats = rig_stats(c.engine);
        printf("selector %d: bound %.3f, estimate %.3f, coverage %.3f, error %.3f\n", i,
               stats.coverage_bound, stats.coverage_estimate, stats.verified_coverage,
               stats.verified_error);
        assert_true(stats.n_verified > 60);
        assert_true(stats.coverage_bound <= stats.verified_coverage + 2e-5);
        assert_true(fabs(stats.coverage_estimate - stats.verified_coverage) < 0.1);
        const double read = (double)(stats.tail_keys + stats.picked_keys) /
                            (double)(stats.tail_keys + stats.sealed_keys);
        assert_true(stats.verified_coverage > 1.2 * read);
        close_cache(&c);
    }
}

static void refuses(void **state)
{
    (void)state;
    struct fathom_engine_params p = base_params();
    p.rope.pairing = FATHOM_ROPE_NONE;
    rig_refuses(&p, "rope.pairing");
    for (int32_t mode = FATHOM_KV_AUTO; mode <= FATHOM_KV_DENSE; mode++) {
        p = base_params();
        p.kv.mode = mode;
        rig_refuses(&p, "kv.mode");
    }
    p = base_params();
    p.kv.n_sink = FAR + 1;
    rig_refuses(&p, "kv.n_sink");
    p = base_params();
    p.kv.positions = 2;
    rig_refuses(&p, "kv.positions");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_naive),
        cmocka_unit_test(picks_by_it),
        cmocka_unit_test(refuses),
    };
    printf("seed %d\n", SEED);
    return check_run("collapse", tests, sizeof tests / sizeof *tests);
}
