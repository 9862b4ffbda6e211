// A disk that is too slow for its deadline: what it does not bring in time is left out, and the
// estimate stands in.
//
// Eight neighbours have one key, and these are a unit: so all of a unit weighs the same, and its
// mean value with its mass is what attention makes of it. Output is then as if everything had been
// read, whatever was late, to the rounding of means to 16 bits: 2^-11 of values up to about 5; and,
// where a second stage scores tokens, of their keys to 8 bits. What is left out without a stand-in,
// counted twice, or read from where it is not, shows.

#include "tests/kv/kv_rig.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <time.h>

#include "tests/io/queue_fake.h"
#include "tests/kv/store_wrap.h"

enum {
    SEED = 20261126,
    N_LAYERS = 2,
    N_KV_HEADS = 4,
    N_HEADS = 8,
    D = 16,
    UNIT = 8,
    N_STEP = 64,
    N_PROMPT = 1600,
    N_MAX = 2000,
    DEADLINE_US = 1000,
    AMPLE_US = 50000, // for what is not held
};

// ---- Two engines side by side -------------------------------------------------------------------

struct rig {
    fathom_device *device;
    fathom_engine *dense, *tiered;
    struct fathom_seq dense_seq, tiered_seq;
    struct rng rng;
    double tolerance;
    uint32_t n;
    float k[N_LAYERS][N_MAX][N_KV_HEADS * D];
    float v[N_LAYERS][N_MAX][N_KV_HEADS * D];
    float q[N_LAYERS][N_HEADS * D]; // of decode steps
    float out[N_LAYERS][N_HEADS * D];
};

static struct fathom_engine_params base_params(void)
{
    struct fathom_engine_params p =
        rig_params(&(struct rig_sizes){N_LAYERS, N_HEADS, N_KV_HEADS, D, N_MAX, N_STEP});
    p.kv.mode = FATHOM_KV_SPARSE;
    p.kv.selector = FATHOM_SELECTOR_CHUNK;
    p.kv.stage2_bits = 0;
    p.kv.index_q8 = false;
    p.kv.estimate = true;
    p.kv.n_unit = UNIT;
    p.kv.n_sink = UNIT;
    p.kv.n_window = 2 * UNIT;
    p.kv.n_segment = 8 * UNIT;
    p.kv.n_merged = 16 * UNIT;
    p.kv.budget_tokens = 20 * UNIT;
    p.kv.disk_bytes = 16 << 20;
    p.kv.disk_path = ".";
    p.kv.disk_deadline_us = DEADLINE_US;
    p.kv.host_bytes = 256 << 10;
    return p;
}

static void fill_rows(struct rig *rig)
{
    for (uint32_t layer = 0; layer < N_LAYERS; layer++)
        for (uint32_t i = 0; i < N_MAX; i++)
            for (uint32_t j = 0; j < N_KV_HEADS * D; j++) {
                const float unit_k = rig->k[layer][i / UNIT * UNIT][j];
                rig->k[layer][i][j] = i % UNIT == 0 ? rng_normal(&rig->rng) : unit_k;
                rig->v[layer][i][j] = rng_normal(&rig->rng);
            }
}

static void ask_anew(struct rig *rig)
{
    for (uint32_t layer = 0; layer < N_LAYERS; layer++)
        for (uint32_t i = 0; i < N_HEADS * D; i++)
            rig->q[layer][i] = 2.0f * rng_normal(&rig->rng);
}

static void append(struct rig *rig, uint32_t n)
{
    check_ok(fathom_step_begin(rig->dense, rig->dense_seq, n));
    check_ok(fathom_step_begin(rig->tiered, rig->tiered_seq, n));
    for (uint32_t layer = 0; layer < N_LAYERS; layer++) {
        const float *k = rig->k[layer][rig->n], *v = rig->v[layer][rig->n];
        check_ok(fathom_append(rig->dense, rig->dense_seq, layer, k, v));
        check_ok(fathom_append(rig->tiered, rig->tiered_seq, layer, k, v));
    }
}

static void end(struct rig *rig, uint32_t n)
{
    check_ok(fathom_step_end(rig->dense, rig->dense_seq));
    check_ok(fathom_step_end(rig->tiered, rig->tiered_seq));
    rig->n += n;
}

// With as little RAM as the engine takes, so that most of the prompt is on disk.
static void open_rig(struct rig *rig, const struct fathom_engine_params *params)
{
    struct fathom_engine_params p = *params;
    memset(rig, 0, sizeof *rig);
    rig->tolerance = p.kv.stage2_bits == 0 ? 5e-3 : 2e-2;
    queue_fake = (struct queue_fake){0};
    store_wrap.queue_ops = &queue_fake_ops;
    rig->device = rig_device();
    rig_open_least(rig->device, &p, 32, &rig->tiered);
    fathom_kv_params_init(&p.kv);
    p.kv.mode = FATHOM_KV_DENSE;
    check_ok(fathom_engine_open(rig->device, &p, &rig->dense));
    check_ok(fathom_seq_create(rig->dense, &rig->dense_seq));
    check_ok(fathom_seq_create(rig->tiered, &rig->tiered_seq));
    rng_init(&rig->rng, SEED);
    fill_rows(rig);
    ask_anew(rig);
    while (rig->n < N_PROMPT) {
        append(rig, N_STEP);
        end(rig, N_STEP);
    }
}

static void close_rig(struct rig *rig)
{
    queue_fake = (struct queue_fake){0};
    fathom_engine_close(&rig->dense);
    rig_close(&rig->device, &rig->tiered);
}

// A step of one token, whose output is as if everything had been read.
static void decode(struct rig *rig)
{
    static float exact[N_HEADS * D];
    append(rig, 1);
    for (uint32_t layer = 0; layer < N_LAYERS; layer++) {
        float *out = rig->out[layer];
        check_ok(fathom_attend(rig->dense, rig->dense_seq, layer, rig->q[layer], exact));
        check_ok(fathom_attend(rig->tiered, rig->tiered_seq, layer, rig->q[layer], out));
        for (uint32_t i = 0; i < N_HEADS * D; i++)
            if (!(fabs((double)out[i] - (double)exact[i]) < rig->tolerance))
                fail_msg("token %u, layer %u, value %u: %g, not %g", rig->n, layer, i,
                         (double)out[i], (double)exact[i]);
    }
    end(rig, 1);
}

static void sleep_ms(long ms)
{
    (void)nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

// ---- Tests --------------------------------------------------------------------------------------

static struct rig rig;

// Steps whose reads come in time, and steps whose reads do not, by turns. Of the first budget half
// is more than the buffer holds.
static void run_late(struct fathom_engine_params p)
{
    open_rig(&rig, &p);
    for (int i = 0; i < 60; i++) {
        queue_fake.holds = i % 3 != 0;
        if (i % 2 == 0) ask_anew(&rig);
        decode(&rig);
    }
    const struct fathom_kv_stats stats = rig_stats(rig.tiered);
    printf("%llu late units, %llu reads, %llu hits\n", (unsigned long long)stats.late_units,
           (unsigned long long)stats.disk_reads, (unsigned long long)stats.host_hits);
    assert_true(stats.late_units > 100 && stats.host_hits > 10);
    close_rig(&rig);
}

static void late(void **state)
{
    struct fathom_engine_params p = base_params();
    (void)state;
    run_late(p);
    p.kv.stage2_bits = 8;
    p.kv.candidates = 2.0f;
    p.kv.budget_tokens = 2 * UNIT; // the buffer for units from disk holds some steps
    run_late(p);
    p.kv.selector = FATHOM_SELECTOR_BLOCK;
    p.kv.rank_by = FATHOM_RANK_BOX;
    run_late(p);
}

// What came too late counts as not read.
static void coverage(void **state)
{
    struct fathom_engine_params p = base_params();
    double least = 1.0, most = 0.0;
    (void)state;
    p.kv.verify_share = 1.0f;
    p.kv.disk_deadline_us = AMPLE_US;
    open_rig(&rig, &p);
    for (int i = 0; i < 20; i++) {
        const struct fathom_kv_stats a = rig_stats(rig.tiered);
        queue_fake.holds = i % 2 != 0;
        ask_anew(&rig);
        decode(&rig);
        const struct fathom_kv_stats b = rig_stats(rig.tiered);
        const double n = (double)b.n_verified, m = (double)a.n_verified;
        const double verified = (b.verified_coverage * n - a.verified_coverage * m) / (n - m);
        const double bound = (b.coverage_bound * n - a.coverage_bound * m) / (n - m);
        const double estimate = (b.coverage_estimate * n - a.coverage_estimate * m) / (n - m);
        assert_int_equal(b.n_covered, b.n_verified);
        assert_true(bound <= verified + 1e-5);
        assert_true(fabs(estimate - verified) < 0.01);
        // The file's reads are held, but RAM's segments and the tail are read.
        if (b.late_units > a.late_units && verified < least) least = verified;
        if (b.late_units == a.late_units && verified > most) most = verified;
    }
    printf("coverage %.3f with, %.3f without late units\n", least, most);
    assert_true(least < most - 0.1);
    close_rig(&rig);
}

// Reads go on after their step, and the next one finds what they brought.
static void later_hits(void **state)
{
    struct fathom_engine_params p = base_params();
    (void)state;
    p.kv.budget_tokens = UNIT;
    p.kv.disk_deadline_us = AMPLE_US;
    open_rig(&rig, &p);
    decode(&rig);
    ask_anew(&rig);
    sleep_ms(20);
    const struct fathom_kv_stats a = rig_stats(rig.tiered);
    queue_fake.holds = true;
    decode(&rig);
    const struct fathom_kv_stats b = rig_stats(rig.tiered);
    queue_fake.holds = false;
    sleep_ms(20);
    decode(&rig);
    const struct fathom_kv_stats c = rig_stats(rig.tiered);
    const uint64_t n_late = b.late_units - a.late_units;
    assert_true(n_late > 0);
    assert_int_equal(c.late_units, b.late_units);
    assert_int_equal(c.disk_reads - a.disk_reads, n_late);
    assert_true(c.host_hits - b.host_hits >= n_late);
    assert_true(c.picked_keys - b.picked_keys == b.picked_keys - a.picked_keys + n_late * UNIT);
    close_rig(&rig);
}

// A read that nobody waited for any more fails: whoever wants its rows again reads them again.
static void late_errors(void **state)
{
    struct fathom_engine_params p = base_params();
    (void)state;
    p.kv.disk_deadline_us = AMPLE_US;
    open_rig(&rig, &p);
    queue_fake.holds = true;
    queue_fake.n_good = queue_fake.n_pushed;
    queue_fake.result = -EIO;
    decode(&rig);
    assert_true(rig_stats(rig.tiered).late_units > 0 && queue_fake.n_pushed > queue_fake.n_good);
    queue_fake.holds = false;
    sleep_ms(20);
    decode(&rig);
    ask_anew(&rig);
    // One that is waited for is told, and the step can be made again.
    queue_fake.n_good = queue_fake.n_pushed;
    append(&rig, 1);
    check_error(fathom_attend(rig.tiered, rig.tiered_seq, 0, rig.q[0], rig.out[0]), FATHOM_EIO,
                "cannot be read");
    fathom_step_cancel(rig.dense, rig.dense_seq);
    fathom_step_cancel(rig.tiered, rig.tiered_seq);
    decode(&rig);
    close_rig(&rig);
}

// Nothing that is being read goes away under the read.
static void ends(void **state)
{
    const struct fathom_engine_params p = base_params();
    (void)state;
    open_rig(&rig, &p);
    queue_fake.holds = true;
    for (uint32_t n = 1500; n > 300; n -= 290) {
        ask_anew(&rig);
        decode(&rig);
        check_ok(fathom_seq_truncate(rig.dense, rig.dense_seq, n));
        check_ok(fathom_seq_truncate(rig.tiered, rig.tiered_seq, n));
        rig.n = n;
        // Over what was given back; a capped segment has no stand-in.
        while (rig.n < n + 2 * N_STEP) {
            append(&rig, N_STEP);
            end(&rig, N_STEP);
        }
        check_ok(fathom_seq_truncate(rig.dense, rig.dense_seq, n - n % (16 * UNIT) + UNIT));
        check_ok(fathom_seq_truncate(rig.tiered, rig.tiered_seq, n - n % (16 * UNIT) + UNIT));
        rig.n = n - n % (16 * UNIT) + UNIT;
    }
    ask_anew(&rig);
    decode(&rig);
    check_ok(fathom_seq_free(rig.tiered, rig.tiered_seq));
    assert_int_equal(rig_stats(rig.tiered).disk_bytes, 0);
    close_rig(&rig);
    open_rig(&rig, &p);
    queue_fake.holds = true;
    decode(&rig);
    assert_true(rig_stats(rig.tiered).late_units > 0);
    close_rig(&rig); // with reads under way
}

// Where nothing is late the deadline changes no bit. Where a head reads everything it changes
// nothing but which rounds the units come in, when some are still under way from before.
static void not_late(void **state)
{
    static const uint32_t deadlines[] = {0, 60000000, 1};
    static float outs[3][8][N_LAYERS][N_HEADS * D];
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct fathom_engine_params p = base_params();
        p.kv.disk_deadline_us = deadlines[i];
        open_rig(&rig, &p);
        for (int j = 0; j < 8; j++) {
            if (j == 4) check_ok(fathom_engine_set_budget(rig.tiered, -1, 1, 0, 1.0f));
            ask_anew(&rig);
            queue_fake.holds = j >= 4;
            decode(&rig);
            memcpy(outs[i][j], rig.out, sizeof rig.out);
            const float *got = outs[i][j][0], *want = outs[0][j][0];
            for (int v = 0; v < N_LAYERS * N_HEADS * D && (deadlines[i] != 1 || j >= 4); v++)
                assert_float_equal(got[v], want[v], deadlines[i] != 1 ? 0.0f : 1e-5f);
        }
        if (deadlines[i] != 1) assert_int_equal(rig_stats(rig.tiered).late_units, 0);
        close_rig(&rig);
    }
}

static void refused(void **state)
{
    struct fathom_engine_params p = base_params();
    (void)state;
    p.kv.estimate = false;
    rig_refuses(&p, "--kv-estimate");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(late),        cmocka_unit_test(coverage), cmocka_unit_test(later_hits),
        cmocka_unit_test(late_errors), cmocka_unit_test(ends),     cmocka_unit_test(not_late),
        cmocka_unit_test(refused),
    };
    printf("seed %d\n", SEED);
    return check_run("deadline", tests, sizeof tests / sizeof *tests);
}
