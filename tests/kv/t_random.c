// Random walks over the tiered cache against naive arrays: engines of random shape, tiers,
// selector, codec and budget, on which sequences are created, forked, truncated, freed and stepped.
//
// What the engine gives must be exact: budgets are everything, or too small but grow until the
// coverage bound says that everything is read, or stay small: then the output may be off by what
// the bound allows. Budgets of layers and heads change on the way. t_random [STEPS [SEED]].

#include "tests/kv/kv_rig.h"

#include <string.h>

#include "tests/kv/naive.h"

enum { SEED = 20261122, STEPS = 100000, STEPS_OF_WALK = 1000, SEQS_MAX = 4 };
static size_t n_steps_wanted = STEPS;
static uint64_t seed = SEED;

// What the budgets of a walk are.
enum budgets {
    BUDGETS_WHOLE,   // everything
    BUDGETS_GROWING, // some tokens, which grow to everything
    BUDGETS_PARTIAL, // anything
};

// Of one walk.
struct walk {
    struct naive naive;
    struct rng rng;
    fathom_device *device;
    fathom_engine *engine;
    struct naive_seq seqs[SEQS_MAX]; // the first n_seqs are alive
    uint32_t n_seqs;
    enum budgets budgets;
};

// What all walks did.
struct tally {
    size_t n_steps;
    size_t n_compared;
    size_t n_full; // steps that found no room
    size_t n_spilling;
    size_t n_merging;
    size_t n_growing; // walks whose budgets grew
    size_t n_budgets; // that were set
    size_t n_late;    // units
};

// ---- Engines ------------------------------------------------------------------------------------

static uint32_t pick(struct rng *rng, const uint32_t *of, uint32_t n)
{
    return of[rng_below(rng, n)];
}
#define PICK(rng, ...)                                                                             \
    pick(rng, (const uint32_t[]){__VA_ARGS__}, sizeof(uint32_t[]){__VA_ARGS__} / sizeof(uint32_t))

static bool chance(struct rng *rng, uint32_t percent)
{
    return rng_below(rng, 100) < percent;
}

static void draw_shape(struct rng *rng, struct fathom_engine_params *p)
{
    p->n_layers = PICK(rng, 1, 2);
    p->n_kv_heads = PICK(rng, 1, 2, 4);
    p->n_heads = p->n_kv_heads * PICK(rng, 1, 2, 3);
    p->d_k = PICK(rng, 8, 16, 20);
    p->d_v = PICK(rng, 8, 16, 12);
    p->n_tokens_max = PICK(rng, 300, 600, 1200, 2000);
    p->n_step_max = PICK(rng, 1, 24, 70);
    p->n_seqs_max = PICK(rng, 1, 2, 3, SEQS_MAX);
    p->kv_type = PICK(rng, FATHOM_TYPE_F16, FATHOM_TYPE_F16, FATHOM_TYPE_F32, FATHOM_TYPE_BF16);
}

static void draw_kv(struct rng *rng, struct fathom_kv_params *kv)
{
    kv->mode = PICK(rng, FATHOM_KV_STREAM, FATHOM_KV_SPARSE, FATHOM_KV_SPARSE, FATHOM_KV_AUTO);
    kv->prefill = PICK(rng, FATHOM_PREFILL_DENSE, FATHOM_PREFILL_SPARSE);
    kv->selector = PICK(rng, FATHOM_SELECTOR_CLUSTER, FATHOM_SELECTOR_CHUNK, FATHOM_SELECTOR_BLOCK,
                        FATHOM_SELECTOR_FLAT);
    kv->codec = PICK(rng, FATHOM_CODEC_PLAIN, FATHOM_CODEC_PLAIN, FATHOM_CODEC_PLAIN,
                     FATHOM_CODEC_Q8, FATHOM_CODEC_Q4, FATHOM_CODEC_Q2);
    kv->rank_by = PICK(rng, FATHOM_RANK_BALL, FATHOM_RANK_MEAN, FATHOM_RANK_BOX);
    kv->stage2_bits = PICK(rng, 0, 4, 8);
    kv->index_q8 = chance(rng, 50);
    kv->estimate = false;
    kv->reduce_sum = chance(rng, 50);
    kv->n_sink = PICK(rng, 0, 1, 8, 20);
    kv->n_window = PICK(rng, 0, 1, 5, 32);
    kv->n_segment = PICK(rng, 16, 32, 48);
    kv->n_merged = kv->n_segment * PICK(rng, 2, 3, 4, 8);
    kv->n_unit = PICK(rng, 0, 0, 5, 8, 32);
    kv->n_dense_layers = PICK(rng, 0, 0, 1);
    kv->verify_share = chance(rng, 20) ? 0.1f : 0.0f;
}

// What budgets will be, and what that asks of the engine: the coverage of steps of many tokens is
// not known, and that of others when it is asked for or verified.
static void draw_budgets(struct walk *w, struct fathom_kv_params *kv)
{
    w->budgets = PICK(&w->rng, BUDGETS_WHOLE, BUDGETS_WHOLE, BUDGETS_WHOLE, BUDGETS_GROWING,
                      BUDGETS_PARTIAL);
    if (w->budgets == BUDGETS_WHOLE) return;
    kv->prefill = FATHOM_PREFILL_DENSE;
    if (w->budgets == BUDGETS_GROWING) {
        kv->coverage = 1.0f;
        kv->coverage_bound = true;
        return;
    }
    kv->threshold = chance(&w->rng, 30) ? 0.01f : 0.0f;
    kv->threshold_auto = kv->threshold == 0.0f && chance(&w->rng, 30);
    kv->verify_share = 1e-6f;
    w->naive.partial = true;
}

// A disk that is always too slow. What stands in is within the bound if both are of units: tokens
// of the second stage may bound a unit more closely.
static void make_late(struct walk *w, struct fathom_kv_params *kv)
{
    if (w->budgets != BUDGETS_PARTIAL || chance(&w->rng, 50)) return;
    kv->mode = FATHOM_KV_SPARSE;
    kv->stage2_bits = 0;
    kv->n_merged = 2 * kv->n_segment;
    kv->estimate = true;
    kv->disk_deadline_us = 1;
}

// A disk, with just enough RAM that all else must go there, and sometimes too small itself.
static void open_with_disk(struct walk *w, struct fathom_engine_params *p)
{
    p->kv.disk_path = ".";
    p->kv.disk_bytes = chance(&w->rng, 20) ? 64 << 10 : 16 << 20;
    p->kv.host_bytes = 256 << 10;
    rig_open_least(w->device, p, 16, &w->engine);
}

// Draws a budget for a KV head of a layer, or all of them (-1), and sets it.
static void set_budget(struct walk *w, int32_t layer, int32_t kv_head)
{
    const struct fathom_engine_params *p = &w->naive.params;
    uint64_t tokens = chance(&w->rng, 50) ? 0 : p->n_tokens_max + rng_below(&w->rng, 3);
    float share = 1.0f;
    if (w->budgets != BUDGETS_WHOLE && chance(&w->rng, 90)) {
        tokens = chance(&w->rng, 50) ? 0 : 1 + rng_below(&w->rng, 40);
        share = 0.05f * (float)rng_below(&w->rng, 9);
    }
    naive_note(&w->naive, "budget of layer %d, head %d: %llu tokens or %g", (int)layer,
               (int)kv_head, (unsigned long long)tokens, (double)share);
    const fathom_status status = fathom_engine_set_budget(w->engine, layer, kv_head, tokens, share);
    if (p->kv.mode == FATHOM_KV_STREAM)
        assert_int_equal(status, FATHOM_EUNSUPPORTED);
    else
        check_ok(status);
}

static void open_walk(struct walk *w, uint64_t walk_seed)
{
    struct fathom_device_params device;
    struct fathom_engine_params p;
    memset(w, 0, sizeof *w);
    rng_init(&w->rng, walk_seed);
    fathom_device_params_init(&device);
    device.n_threads = PICK(&w->rng, 1, 2, 2);
    check_ok(fathom_device_open(&device, &w->device));
    fathom_engine_params_init(&p);
    draw_shape(&w->rng, &p);
    draw_kv(&w->rng, &p.kv);
    draw_budgets(w, &p.kv);
    make_late(w, &p.kv);
    const bool partial = w->naive.partial;
    if (p.kv.mode == FATHOM_KV_AUTO) p.kv.device_bytes = 1 << 20;
    naive_init(&w->naive, &p, walk_seed);
    w->naive.partial = partial;
    if (p.kv.mode != FATHOM_KV_AUTO && (p.kv.disk_deadline_us > 0 || chance(&w->rng, 40)))
        open_with_disk(w, &p);
    else
        check_ok(fathom_engine_open(w->device, &p, &w->engine));
    w->naive.params = p;
    set_budget(w, -1, -1);
    for (uint32_t i = 0; i < SEQS_MAX; i++)
        naive_seq_init(&w->naive, &w->seqs[i]);
    snprintf(
        w->naive.title, sizeof w->naive.title,
        "walk %llu: %u layers, %u/%u heads of %u and %u, %u tokens, type %d, rank by %d, stage "
        "2 %d, index q8 %d, unit %u, dense layers %u, sum %d",
        (unsigned long long)walk_seed, p.n_layers, p.n_heads, p.n_kv_heads, p.d_k, p.d_v,
        p.n_tokens_max, (int)p.kv_type, (int)p.kv.rank_by, (int)p.kv.stage2_bits, p.kv.index_q8,
        p.kv.n_unit, p.kv.n_dense_layers, p.kv.reduce_sum);
}

static void close_walk(struct walk *w, struct tally *tally)
{
    struct fathom_kv_stats stats = rig_stats(w->engine);
    tally->n_compared += w->naive.n_compared;
    tally->n_spilling += stats.disk_bytes_read > 0;
    tally->n_merging += stats.merge_s > 0.0;
    tally->n_growing += stats.n_rounds > stats.n_steps_picked;
    tally->n_late += stats.late_units;
    for (uint32_t i = 0; i < w->n_seqs; i++)
        check_ok(fathom_seq_free(w->engine, w->seqs[i].seq));
    stats = rig_stats(w->engine);
    assert_int_equal(stats.n_segments, 0);
    assert_int_equal(stats.disk_bytes, 0);
    for (uint32_t i = 0; i < SEQS_MAX; i++)
        naive_seq_fini(&w->seqs[i]);
    naive_fini(&w->naive);
    rig_close(&w->device, &w->engine);
}

// ---- Operations ---------------------------------------------------------------------------------

static void check_count(const struct walk *w, const struct naive_seq *seq)
{
    uint32_t n;
    check_ok(fathom_seq_count(w->engine, seq->seq, &n));
    assert_int_equal(n, seq->n);
}

static void create(struct walk *w)
{
    struct naive_seq *seq = &w->seqs[w->n_seqs];
    if (w->n_seqs == w->naive.params.n_seqs_max) return;
    naive_note(&w->naive, "create %u", w->n_seqs);
    check_ok(fathom_seq_create(w->engine, &seq->seq));
    seq->n = 0;
    w->n_seqs++;
}

static void drop(struct walk *w, uint32_t i)
{
    const struct naive_seq gone = w->seqs[i];
    naive_note(&w->naive, "free %u of %u tokens; %u becomes it", i, gone.n, w->n_seqs - 1);
    check_ok(fathom_seq_free(w->engine, gone.seq));
    w->seqs[i] = w->seqs[--w->n_seqs];
    w->seqs[w->n_seqs] = gone;
}

static void fork(struct walk *w, const struct naive_seq *from)
{
    struct naive_seq *to = &w->seqs[w->n_seqs];
    if (w->n_seqs == w->naive.params.n_seqs_max) return;
    naive_note(&w->naive, "fork %td to %u, at %u", from - w->seqs, w->n_seqs, from->n);
    check_ok(fathom_seq_fork(w->engine, from->seq, &to->seq));
    memcpy(to->tokens, from->tokens, from->n * sizeof *to->tokens);
    to->n = from->n;
    w->n_seqs++;
    check_count(w, to);
}

// Mostly by a little.
static void truncate(struct walk *w, struct naive_seq *seq)
{
    const uint32_t most = chance(&w->rng, 60) && seq->n > 40 ? 40 : seq->n;
    const uint32_t n = seq->n - rng_below(&w->rng, most + 1);
    naive_note(&w->naive, "truncate %td from %u to %u", seq - w->seqs, seq->n, n);
    check_ok(fathom_seq_truncate(w->engine, seq->seq, n));
    seq->n = n;
    check_count(w, seq);
}

// A step that is begun, and given up.
static void cancel(struct walk *w, const struct naive_seq *seq)
{
    if (seq->n == w->naive.params.n_tokens_max) return;
    naive_note(&w->naive, "cancel %td at %u", seq - w->seqs, seq->n);
    const fathom_status status = fathom_step_begin(w->engine, seq->seq, 1);
    if (status == FATHOM_EFULL) return;
    check_ok(status);
    check_ok(fathom_append(w->engine, seq->seq, 0, w->naive.k, w->naive.v));
    check_ok(fathom_attend(w->engine, seq->seq, 0, w->naive.q, w->naive.out));
    fathom_step_cancel(w->engine, seq->seq);
    check_count(w, seq);
}

static void change_budget(struct walk *w, struct tally *tally)
{
    const struct fathom_engine_params *p = &w->naive.params;
    const int32_t layer = (int32_t)rng_below(&w->rng, p->n_layers + 1) - 1;
    const int32_t kv_head = (int32_t)rng_below(&w->rng, p->n_kv_heads + 1) - 1;
    set_budget(w, layer, kv_head);
    tally->n_budgets++;
}

static void step(struct walk *w, uint32_t i, struct tally *tally)
{
    const struct fathom_engine_params *p = &w->naive.params;
    struct naive_seq *seq = &w->seqs[i];
    const uint32_t n = chance(&w->rng, 60) ? 1 : 1 + rng_below(&w->rng, p->n_step_max);
    naive_note(&w->naive, "step %u at %u by %u", i, seq->n, n);
    const fathom_status status = naive_step(&w->naive, w->engine, seq, n);
    tally->n_steps++;
    check_count(w, seq);
    if (status == FATHOM_EFULL && seq->n + n > p->n_tokens_max) {
        if (chance(&w->rng, 30)) drop(w, i);
        return;
    }
    if (status == FATHOM_EFULL) {
        assert_non_null(strstr(fathom_last_error(), "no room"));
        assert_true(p->kv.disk_bytes > 0); // which, with RAM, was too small
        naive_note(&w->naive, "no room");
        tally->n_full++;
        drop(w, i);
        return;
    }
    check_ok(status);
}

static void move(struct walk *w, struct tally *tally)
{
    const uint32_t what = rng_below(&w->rng, 1000);
    if (w->n_seqs == 0 || what < 10) {
        create(w);
        return;
    }
    const uint32_t i = rng_below(&w->rng, w->n_seqs);
    if (what < 15)
        drop(w, i);
    else if (what < 30)
        fork(w, &w->seqs[i]);
    else if (what < 60)
        truncate(w, &w->seqs[i]);
    else if (what < 70)
        cancel(w, &w->seqs[i]);
    else if (what < 90)
        change_budget(w, tally);
    else
        step(w, i, tally);
}

static void test_walks(void **state)
{
    struct tally tally = {0};
    (void)state;
    for (uint64_t i = 0; tally.n_steps < n_steps_wanted; i++) {
        struct walk w;
        open_walk(&w, seed + i);
        const size_t end = tally.n_steps + STEPS_OF_WALK;
        while (tally.n_steps < end)
            move(&w, &tally);
        close_walk(&w, &tally);
    }
    printf("%zu steps, %zu outputs compared; %zu budgets set; %zu found no room; %zu late units; "
           "walks that merged %zu, spilled %zu, raised budgets %zu\n",
           tally.n_steps, tally.n_compared, tally.n_budgets, tally.n_full, tally.n_late,
           tally.n_merging, tally.n_spilling, tally.n_growing);
    assert_true(n_steps_wanted < STEPS ||
                (tally.n_merging > 0 && tally.n_spilling > 0 && tally.n_growing > 0 &&
                 tally.n_budgets > 0 && tally.n_late > 0));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_walks)};
    if (argc > 1) n_steps_wanted = strtoull(argv[1], NULL, 10);
    if (argc > 2) seed = strtoull(argv[2], NULL, 10);
    printf("seed %llu\n", (unsigned long long)seed);
    return check_run("random", tests, sizeof tests / sizeof *tests);
}
