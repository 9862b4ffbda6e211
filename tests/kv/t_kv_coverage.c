// What the tiered cache says of its coverage: the bound is never above the true coverage, is high
// where keys lie in tight clusters, and budgets that grow until it holds keep what was asked.
//
// The true coverage of a step is that of exact attention, which verify_share = 1 lets the engine
// compute (t_random.c compares exact attention with the truth). Figures of single steps and layers
// are differences of the statistics' sums.

#include "tests/kv/kv_rig.h"

#include <math.h>
#include <string.h>

#include "src/base/mem.h"

enum {
    SEED = 20261124,
    N_TOKENS = 900,
    N_DECODED = 40,
    N_LAYERS = 2,
    N_HEADS = 4,
    N_KV_HEADS = 2,
    D = 32,
    CLUSTER = 32, // tokens
    PLANE_STRENGTH = 15,
};
// Logarithms of sums in float, of up to some tens: their relative error, a few 2^-24, times that.
static const double float_error = 2e-5;

// ---- Keys and queries ---------------------------------------------------------------------------

enum data { DATA_RANDOM, DATA_TOPICS, DATA_TIGHT, DATA_PLANE };
static const char *const data_names[] = {"random", "topics", "tight", "plane"};

struct cache {
    struct fathom_engine_params params;
    struct rng rng;
    enum data data;
    fathom_device *device;
    fathom_engine *engine;
    struct fathom_seq seq;
    float *centres; // [N_TOKENS / CLUSTER + 1, D]
    float *k, *v;   // [CLUSTER, N_KV_HEADS, D]
    float *q, *out; // [CLUSTER, N_HEADS, D]
    uint32_t n;
};

// Topics: keys about the topic's centre, and one in 50 that stands alone. Tight: hardly off it.
// Plane: random, but in two channels alone, where a query may point right at a unit's farthest key:
// there a bound that is a little too low shows.
static float key_value(struct cache *c, uint32_t token, bool alone, uint32_t i)
{
    static const float off[] = {1.0f, 0.5f, 0.01f, 1.0f};
    const bool centred = (c->data == DATA_TOPICS || c->data == DATA_TIGHT) && !alone;
    if (c->data == DATA_PLANE && i >= 2) return 0.0f;
    return (centred ? c->centres[(token / CLUSTER) * D + i] : 0.0f) +
           off[alone ? DATA_RANDOM : c->data] * rng_normal(&c->rng);
}

static void fill_rows(struct cache *c, uint32_t n)
{
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t h = 0; h < N_KV_HEADS; h++) {
            const bool alone = c->data == DATA_TOPICS && rng_below(&c->rng, 50) == 0;
            for (uint32_t i = 0; i < D; i++) {
                c->k[(t * N_KV_HEADS + h) * D + i] = key_value(c, c->n + t, alone, i);
                c->v[(t * N_KV_HEADS + h) * D + i] = rng_normal(&c->rng);
            }
        }
}

// Towards an earlier topic, or nowhere; `strength`: how sharp the softmax is.
static void fill_queries(struct cache *c, uint32_t n, float strength)
{
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t h = 0; h < N_HEADS; h++) {
            const float *centre = c->centres + rng_below(&c->rng, (c->n + 1) / CLUSTER + 1) * D;
            for (uint32_t i = 0; i < D; i++) {
                float x = rng_normal(&c->rng);
                if (c->data == DATA_TOPICS || c->data == DATA_TIGHT) x = centre[i] + 0.1f * x;
                if (c->data == DATA_PLANE) x = i < 2 ? PLANE_STRENGTH * x : 0.0f;
                c->q[(t * N_HEADS + h) * D + i] = strength * x;
            }
        }
}

// Sinks and segments begin with a topic.
static struct fathom_engine_params base_params(void)
{
    struct fathom_engine_params p =
        rig_params(&(struct rig_sizes){N_LAYERS, N_HEADS, N_KV_HEADS, D, N_TOKENS, CLUSTER});
    p.kv.mode = FATHOM_KV_SPARSE;
    p.kv.n_sink = CLUSTER;
    p.kv.n_window = CLUSTER;
    p.kv.n_segment = 2 * CLUSTER;
    p.kv.n_merged = 8 * CLUSTER;
    p.kv.budget_share = 0.1f;
    p.kv.verify_share = 1.0f;
    return p;
}

static void open_cache(struct cache *c, const struct fathom_engine_params *p, enum data data)
{
    memset(c, 0, sizeof *c);
    c->params = *p;
    c->data = data;
    rng_init(&c->rng, SEED);
    rig_open(p, &c->device, &c->engine);
    check_ok(fathom_seq_create(c->engine, &c->seq));
    c->centres = rig_values(&c->rng, (N_TOKENS / CLUSTER + 1) * D);
    struct rng unused = c->rng; // what these hold, steps fill
    c->k = rig_values(&unused, CLUSTER * N_KV_HEADS * D);
    c->v = rig_values(&unused, CLUSTER * N_KV_HEADS * D);
    c->q = rig_values(&unused, CLUSTER * N_HEADS * D);
    c->out = rig_values(&unused, CLUSTER * N_HEADS * D);
}

static void close_cache(struct cache *c)
{
    rig_close(&c->device, &c->engine);
    mem_free(c->centres);
    mem_free(c->k);
    mem_free(c->v);
    mem_free(c->q);
    mem_free(c->out);
}

// ---- Steps --------------------------------------------------------------------------------------

// Of one attend: means over the heads.
struct figures {
    bool picked;
    double bound, estimate, coverage;
    uint64_t n_keys; // picked
    uint64_t n_sealed;
};

static struct figures figures_between(const struct fathom_kv_stats *a,
                                      const struct fathom_kv_stats *b)
{
    const double covered_a = (double)a->n_covered, covered_b = (double)b->n_covered;
    return (struct figures){
        .picked = b->n_steps_picked > a->n_steps_picked,
        .bound = b->coverage_bound * covered_b - a->coverage_bound * covered_a,
        .estimate = b->coverage_estimate * covered_b - a->coverage_estimate * covered_a,
        .coverage = b->verified_coverage * (double)b->n_verified -
                    a->verified_coverage * (double)a->n_verified,
        .n_keys = b->picked_keys - a->picked_keys,
        .n_sealed = b->sealed_keys - a->sealed_keys,
    };
}

static struct figures attend(struct cache *c, uint32_t layer, uint32_t n, float strength)
{
    const struct fathom_kv_stats before = rig_stats(c->engine);
    fill_rows(c, n);
    fill_queries(c, n, strength);
    check_ok(fathom_append(c->engine, c->seq, layer, c->k, c->v));
    check_ok(fathom_attend(c->engine, c->seq, layer, c->q, c->out));
    const struct fathom_kv_stats after = rig_stats(c->engine);
    return figures_between(&before, &after);
}

// What N_DECODED steps came to; the first tokens come by many.
struct means {
    double bound, estimate, coverage;
    double least_bound, least_coverage;
    uint64_t most_keys, least_keys; // of an attend
    uint32_t n;
};

static void add_figures(struct means *m, const struct figures *f)
{
    m->bound += f->bound;
    m->estimate += f->estimate;
    m->coverage += f->coverage;
    m->least_bound = fmin(m->least_bound, f->bound);
    m->least_coverage = fmin(m->least_coverage, f->coverage);
    m->most_keys = f->n_keys > m->most_keys ? f->n_keys : m->most_keys;
    m->least_keys = f->n_keys < m->least_keys ? f->n_keys : m->least_keys;
    m->n++;
}

static struct means decode(struct cache *c, float strength)
{
    struct means m = {.least_bound = 1.0, .least_coverage = 1.0, .least_keys = UINT64_MAX};
    while (c->n < N_TOKENS) {
        const uint32_t left = N_TOKENS - c->n;
        const uint32_t n = left <= N_DECODED            ? 1
                           : left - N_DECODED < CLUSTER ? left - N_DECODED
                                                        : CLUSTER;
        check_ok(fathom_step_begin(c->engine, c->seq, n));
        for (uint32_t layer = 0; layer < N_LAYERS; layer++) {
            const struct figures f = attend(c, layer, n, strength);
            assert_int_equal(f.picked, n == 1 && layer >= c->params.kv.n_dense_layers);
            if (!f.picked) continue;
            if (!(f.bound <= f.coverage + float_error && f.coverage <= 1.0 + float_error))
                fail_msg("%s, token %u, layer %u: bound %.7f, coverage %.7f",
                         fathom_engine_plan(c->engine), c->n, layer, f.bound, f.coverage);
            add_figures(&m, &f);
        }
        check_ok(fathom_step_end(c->engine, c->seq));
        c->n += n;
    }
    assert_true(m.n > 0);
    m.bound /= m.n;
    m.estimate /= m.n;
    m.coverage /= m.n;
    return m;
}

static struct means run(const struct fathom_engine_params *p, enum data data, float strength)
{
    struct cache c;
    open_cache(&c, p, data);
    const struct means m = decode(&c, strength);
    close_cache(&c);
    return m;
}

// ---- Tests --------------------------------------------------------------------------------------

static const int32_t selectors[] = {FATHOM_SELECTOR_CLUSTER, FATHOM_SELECTOR_CHUNK,
                                    FATHOM_SELECTOR_BLOCK, FATHOM_SELECTOR_FLAT};
static const char *const selector_names[] = {"cluster", "chunk", "block", "flat"};

// Every selector, rank, kind of index, second stage and codec; the data change along.
static void bound_holds(void **state)
{
    static const int32_t codecs[] = {FATHOM_CODEC_PLAIN, FATHOM_CODEC_Q8, FATHOM_CODEC_Q4,
                                     FATHOM_CODEC_Q2};
    struct fathom_engine_params p = base_params();
    (void)state;
    for (uint32_t i = 0; i < 4 * 3 * 2 * 3 * 4; i += check_few() ? 13 : 1) {
        p.kv.selector = selectors[i % 4];
        p.kv.rank_by = (int32_t)(i / 4 % 3);
        p.kv.index_q8 = i / 12 % 2 == 0;
        p.kv.stage2_bits = (int32_t)(i / 24 % 3) * 4;
        p.kv.codec = codecs[i / 72 % 4];
        p.kv.reduce_sum = i % 5 == 0;
        p.kv.estimate = i % 7 == 0;
        p.kv.threshold = i % 11 == 0 ? 0.001f : 0.0f;
        const struct means m = run(&p, (enum data)((i + i / 4) % 4), i % 3 == 0 ? 1.0f : 3.0f);
        assert_true(m.coverage > 0.05);
    }
}

static void tight_clusters(void **state)
{
    struct fathom_engine_params p = base_params();
    (void)state;
    for (uint32_t i = 0; i < 4 * 2; i++) {
        p.kv.selector = selectors[i % 4];
        p.kv.n_unit = p.kv.selector == FATHOM_SELECTOR_BLOCK ? CLUSTER : 0;
        p.kv.rank_by = i < 4 ? FATHOM_RANK_BALL : FATHOM_RANK_BOX;
        p.kv.budget_share = 0.3f;
        const struct means m = run(&p, DATA_TIGHT, 2.0f);
        printf("%s %s: bound %.4f, estimate %.4f, coverage %.4f\n", selector_names[i % 4],
               i < 4 ? "ball" : "box", m.bound, m.estimate, m.coverage);
        assert_true(m.bound >= 0.9);
        assert_true(fabs(m.estimate - m.coverage) < 0.02);
    }
}

// Of each head, so of their mean too.
static void asked_bound(void **state)
{
    struct fathom_engine_params p = base_params();
    (void)state;
    p.kv.coverage = 0.98f;
    p.kv.coverage_bound = true;
    p.kv.budget_share = 0.02f;
    for (uint32_t i = 0; i < 4 * 3; i++) {
        p.kv.selector = selectors[i % 4];
        const struct means m = run(&p, (enum data)(i / 4), 2.0f);
        printf("%s, %s: bound %.4f, coverage %.4f, at most %llu keys\n", selector_names[i % 4],
               data_names[i / 4], m.bound, m.coverage, (unsigned long long)m.most_keys);
        assert_true(m.least_bound >= 0.98 - float_error);
        assert_true(m.least_coverage >= 0.98 - float_error);
    }
}

static void asked_estimate(void **state)
{
    struct fathom_engine_params p = base_params();
    (void)state;
    p.kv.coverage = 0.98f;
    p.kv.budget_share = 0.02f;
    for (uint32_t i = 0; i < 4 * 3; i++) {
        p.kv.selector = selectors[i % 4];
        const struct means m = run(&p, (enum data)(i / 4), 2.0f);
        printf("%s, %s: estimate %.4f, coverage %.4f\n", selector_names[i % 4], data_names[i / 4],
               m.estimate, m.coverage);
        assert_true(m.estimate >= 0.98 - float_error);
        assert_true(m.coverage >= 0.9);
    }
}

// With a second stage budgets are kept to the token; outliers of chunks are not counted.
static void budgets(void **state)
{
    const uint64_t of_heads[N_LAYERS * N_KV_HEADS] = {20, 30, 25, 25};
    struct fathom_engine_params p = base_params();
    struct means m;
    (void)state;
    p.kv.budget_tokens = 25;
    m = run(&p, DATA_RANDOM, 1.0f);
    assert_int_equal(m.most_keys, 25 * N_KV_HEADS);
    assert_int_equal(m.least_keys, 25 * N_KV_HEADS);
    p.kv.budget_tokens = 0;
    p.kv.head_budgets = of_heads; // a layer's are 50
    m = run(&p, DATA_RANDOM, 1.0f);
    assert_int_equal(m.most_keys, 50);
    assert_int_equal(m.least_keys, 50);
    p.kv.head_budgets = NULL;
    p.kv.selector = FATHOM_SELECTOR_FLAT;
    p.kv.n_dense_layers = 1;
    m = run(&p, DATA_RANDOM, 1.0f);
    // 840 tokens and more, less sinks, window and one open segment or two: 10 % of 640 to 832.
    assert_true(m.least_keys >= 64 * N_KV_HEADS && m.most_keys <= 84 * N_KV_HEADS);
    p.kv.threshold = 0.5f; // of the mass, for one key
    m = run(&p, DATA_RANDOM, 0.1f);
    assert_int_equal(m.most_keys, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bound_holds), cmocka_unit_test(tight_clusters),
        cmocka_unit_test(asked_bound), cmocka_unit_test(asked_estimate),
        cmocka_unit_test(budgets),
    };
    printf("seed %d\n", SEED);
    return check_run("kv coverage", tests, sizeof tests / sizeof *tests);
}
