// Scores of representatives and of codes of K against double, for each rung of the ladder; with
// --bench, their speed.
//
// The bounds are the slacks that the kernels themselves give: a packed query must know how far off
// it can be. Vectors and rows are chosen to lie along what packing a query loses.

#include "tests/kernels/k_score.h"

#include "tests/check.h"

#include <math.h>
#include <string.h>

#include "cpu/cpu_kernels.h"
#include "cpu/ladder.h"
#include "fathom/device.h"
#include "src/base/half.h"
#include "src/base/mem.h"

enum { SEED = 21, N_BLOCKS = 5, N_REPS = N_BLOCKS * REP_LANES, OUT_STRIDE = N_REPS + 3 };
static const uint32_t dims[] = {1, 8, 31, 64, 80, 96, 128, 256};
static const uint32_t groups[] = {1, 3, 4, 8, 16};
enum { DIMS = sizeof dims / sizeof dims[0], GROUPS = sizeof groups / sizeof groups[0] };
static const float canary = 12345.5f;

bool score_variant(int variant, struct kernel_table *table, const char **name)
{
    static const struct {
        const char *name;
        uint32_t mask;
    } variants[SCORE_VARIANTS] = {
        {"ref", 0},
        {"avx2", FATHOM_ISA_AVX2},
        {"avx512", FATHOM_ISA_AVX2 | FATHOM_ISA_AVX512},
        {"vnni", FATHOM_ISA_AVX2 | FATHOM_ISA_AVX512 | FATHOM_ISA_AVX512_VNNI},
    };
    if ((variants[variant].mask & ~ladder_isa()) != 0) return false;
    cpu_kernels_init(table, variants[variant].mask);
    *name = variants[variant].name;
    return true;
}

void score_fill_query(struct rng *rng, enum query_kind kind, float *q, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        q[i] = kind == QUERY_EQUAL ? 0.3f : kind == QUERY_ZERO ? 0 : rng_normal(rng);
        if (kind == QUERY_SMALL) q[i] *= 1e-20f;
        if (kind == QUERY_OUTLIER && i % 64 == 5) q[i] *= 1000;
    }
}

double score_residual(const float *q, uint32_t d, uint32_t c, float n_codes)
{
    float max = 0;
    for (uint32_t i = 0; i < d; i++)
        max = fmaxf(max, fabsf(q[i]));
    float step = max / n_codes;
    return step > 0 ? (double)q[c] - (double)step * rintf(q[c] / step) : 0;
}

struct reps {
    bool q8;
    uint32_t d, group;
    float q[SCORE_GROUP_MAX * SCORE_D_MAX];
    float vectors[N_REPS * SCORE_D_MAX]; // [N_REPS, d] as packed
    float out[SCORE_GROUP_MAX * OUT_STRIDE];
    float slack[SCORE_GROUP_MAX];
    void *packed, *memory;
    char *blocks; // aligned to a float only
};

// Vector i, of the kind that its number says: several of them against what a query loses.
static void fill_vector(const struct reps *p, struct rng *rng, uint32_t i, float *x)
{
    const float *q = p->q + i / 8 % p->group * p->d;
    float size = (const float[]){1, 1e-6f, 300}[i % 3];
    for (uint32_t c = 0; c < p->d; c++)
        switch (i % 8) {
        case 0:
            x[c] = size * (float)score_residual(q, p->d, c, 127);
            break;
        case 1:
            x[c] = size * (float)copysign(0.5, score_residual(q, p->d, c, 127));
            break;
        case 2:
            x[c] = size * (float)score_residual(q, p->d, c, 32767);
            break;
        case 3:
            x[c] = c == i % p->d ? size : 0;
            break;
        case 4:
            x[c] = i < N_REPS / 2 ? 0 : q[c] / 16;
            break;
        default:
            x[c] = size * rng_normal(rng);
            break;
        }
}

static void open_reps(struct reps *p, const struct kernel_table *table, struct rng *rng,
                      enum query_kind kind)
{
    size_t block_bytes = rep_block_bytes(p->q8, p->d);
    check_ok(mem_new(1, packed_query_bytes(p->group), "query", &p->packed));
    check_ok(mem_new(N_BLOCKS, block_bytes + 4, "blocks", &p->memory));
    p->blocks = (char *)p->memory + 4;
    score_fill_query(rng, kind, p->q, p->group * p->d);
    for (uint32_t i = 0; i < N_REPS; i++)
        fill_vector(p, rng, i, p->vectors + i * p->d);
    for (uint32_t b = 0; b < N_BLOCKS; b++) {
        float *x = p->vectors + b * REP_LANES * p->d;
        table->kv.pack_reps(p->q8, x, REP_LANES, p->d, p->blocks + b * block_bytes, x);
    }
    table->kv.pack_rep_query(p->q8, p->q, p->group, p->d, p->packed, p->slack);
}

static void close_reps(struct reps *p)
{
    mem_free(p->packed);
    mem_free(p->memory);
}

static void score_range(struct reps *p, const struct kernel_table *table, uint32_t begin,
                        uint32_t end)
{
    for (size_t i = 0; i < sizeof p->out / sizeof p->out[0]; i++)
        p->out[i] = canary;
    const struct score_reps_args args = {.q = p->packed,
                                         .group = p->group,
                                         .d = p->d,
                                         .q8 = p->q8,
                                         .blocks = p->blocks,
                                         .begin = begin,
                                         .end = end,
                                         .out = p->out,
                                         .out_stride = OUT_STRIDE};
    table->kv.score_reps(&args);
    for (uint32_t i = 0; i < SCORE_GROUP_MAX * OUT_STRIDE; i++)
        if (i / OUT_STRIDE >= p->group || i % OUT_STRIDE >= end - begin)
            assert_true(p->out[i] == canary);
}

static void check_scores(const struct reps *p, const char *variant)
{
    for (uint32_t g = 0; g < p->group; g++)
        for (uint32_t i = 0; i < N_REPS; i++) {
            const float *q = p->q + g * p->d, *v = p->vectors + i * p->d;
            double sum = 0, squares = 0;
            for (uint32_t c = 0; c < p->d; c++) {
                sum += (double)q[c] * v[c];
                squares += (double)v[c] * v[c];
            }
            double error = p->out[g * OUT_STRIDE + i] - sum;
            if (!(fabs(error) <= p->slack[g] * sqrt(squares) + 0x1p-126))
                fail_msg("%s: q8 %d d %u group %u: head %u, vector %u: %g, want %g +- %g", variant,
                         p->q8, p->d, p->group, g, i, sum + error, sum,
                         p->slack[g] * sqrt(squares));
        }
}

// A slack that is true but useless would pass the other checks. Rounding to 127 codes of either
// sign loses half a step of each channel, and less where the query is not made to be lost.
static void check_slack(const struct reps *p, enum query_kind kind)
{
    for (uint32_t g = 0; g < p->group; g++) {
        double squares = 0;
        for (uint32_t c = 0; c < p->d; c++)
            squares += (double)p->q[g * p->d + c] * p->q[g * p->d + c];
        double share = kind == QUERY_OUTLIER ? 0.51 / 127 * sqrt(p->d) : 0.012;
        assert_true(p->slack[g] <= share * sqrt(squares));
    }
}

// All blocks at once, then ranges of them, which must give the same bits.
static void test_reps(void **state)
{
    (void)state;
    static const uint32_t ranges[][2] = {{0, 0}, {16, 16}, {0, 16}, {16, 64}, {48, 80}, {64, 80}};
    static struct reps p;
    static float all[SCORE_GROUP_MAX * OUT_STRIDE];
    struct kernel_table table;
    struct rng rng;
    const char *name;
    rng_init(&rng, SEED);
    printf("seed %d\n", SEED);
    for (uint32_t round = 0; round < SCORE_VARIANTS * 2 * GROUPS * DIMS; round++) {
        p.d = dims[round % DIMS];
        p.group = groups[round / DIMS % GROUPS];
        p.q8 = round / DIMS / GROUPS % 2;
        if (!score_variant(round / DIMS / GROUPS / 2, &table, &name)) continue;
        enum query_kind kind = (round + round / DIMS) % QUERY_KINDS;
        open_reps(&p, &table, &rng, kind);
        score_range(&p, &table, 0, N_REPS);
        check_scores(&p, name);
        check_slack(&p, kind);
        memcpy(all, p.out, sizeof all);
        for (size_t r = 0; r < sizeof ranges / sizeof ranges[0]; r++) {
            uint32_t begin = ranges[r][0], end = ranges[r][1];
            score_range(&p, &table, begin, end);
            for (uint32_t g = 0; g < p.group; g++)
                assert_memory_equal(p.out + g * OUT_STRIDE, all + g * OUT_STRIDE + begin,
                                    (end - begin) * sizeof(float));
        }
        close_reps(&p);
    }
}

// One head's NaN or infinity is that head's alone.
static void test_reps_nan(void **state)
{
    (void)state;
    static struct reps p;
    static float sane[SCORE_GROUP_MAX * OUT_STRIDE];
    struct kernel_table table;
    struct rng rng;
    const char *name;
    rng_init(&rng, SEED);
    for (int round = 0; round < SCORE_VARIANTS * 4; round++) {
        p.group = 3, p.d = 40, p.q8 = round % 2;
        if (!score_variant(round / 4, &table, &name)) continue;
        open_reps(&p, &table, &rng, QUERY_NORMAL);
        score_range(&p, &table, 0, N_REPS);
        memcpy(sane, p.out, sizeof sane);
        p.q[p.d + 7] = round / 2 % 2 ? NAN : -INFINITY;
        table.kv.pack_rep_query(p.q8, p.q, p.group, p.d, p.packed, p.slack);
        score_range(&p, &table, 0, N_REPS);
        assert_false(isfinite(p.slack[1]));
        for (uint32_t i = 0; i < N_REPS; i++)
            assert_false(isfinite(p.out[OUT_STRIDE + i]));
        assert_memory_equal(p.out, sane, N_REPS * sizeof(float));
        assert_memory_equal(p.out + 2 * OUT_STRIDE, sane + 2 * OUT_STRIDE, N_REPS * sizeof(float));
        close_reps(&p);
    }
}

// The value that a block holds, by the contract's text.
static float block_value(bool q8, const char *block, uint32_t lane, uint32_t c)
{
    uint16_t half;
    float step;
    memcpy(&half, block + (q8 ? 0 : (c * REP_LANES + lane) * 2), 2);
    if (!q8) return half_to_float(half);
    memcpy(&step, block + 4 * lane, 4);
    uint8_t code = (uint8_t)block[4 * REP_LANES + (c / 4 * REP_LANES + lane) * 4 + c % 4];
    return step * (float)(code - 128);
}

static void check_block(bool q8, const float *x, uint32_t n, uint32_t d, const char *block,
                        const float *unpacked)
{
    for (uint32_t lane = 0; lane < REP_LANES; lane++) {
        float max = 0;
        for (uint32_t c = 0; c < d && lane < n; c++)
            max = fmaxf(max, fabsf(x[lane * d + c]));
        for (uint32_t c = 0; c < (q8 ? (d + 3) / 4 * 4 : d); c++) {
            float value = block_value(q8, block, lane, c);
            if (c >= d || lane >= n) {
                assert_true(value == 0 || (lane < n && isnan(value)));
                continue;
            }
            float want = x[lane * d + c];
            assert_true(unpacked[lane * d + c] == value || isnan(value));
            assert_true(isnan(unpacked[lane * d + c]) == isnan(value));
            if (!q8)
                assert_true(value == half_to_float(half_from_float(want)) || isnan(want));
            else if (isfinite(max) && !isnan(value))
                assert_true(fabsf(value - want) <= 0.50001f * max / 127 + 0x1p-100f);
        }
    }
}

// Every variant packs as the reference does, which packs to the nearest code.
static void test_pack(void **state)
{
    (void)state;
    static float x[REP_LANES * SCORE_D_MAX], unpacked[REP_LANES * SCORE_D_MAX];
    static char want[2 * REP_LANES * SCORE_D_MAX], got[2 * REP_LANES * SCORE_D_MAX + 4];
    struct kernel_table reference, table;
    struct rng rng;
    const char *name;
    rng_init(&rng, SEED);
    cpu_kernels_init(&reference, 0);
    for (uint32_t round = 0; round < SCORE_VARIANTS * DIMS * 2 * REP_LANES; round++) {
        uint32_t n = 1 + round % REP_LANES, d = dims[round / REP_LANES / 2 % DIMS];
        bool q8 = round / REP_LANES % 2;
        if (!score_variant(round / REP_LANES / 2 / DIMS, &table, &name)) continue;
        for (uint32_t i = 0; i < n * d; i++)
            x[i] = rng_normal(&rng) * (const float[]){1, 1e-3f, 1e-33f, 60000}[i / d % 4];
        if (n > 6 && round % 3 == 0) x[5 * d] = NAN, x[6 * d + d - 1] = INFINITY;
        size_t bytes = rep_block_bytes(q8, d);
        memset(got, 0x55, sizeof got);
        reference.kv.pack_reps(q8, x, n, d, want, NULL);
        table.kv.pack_reps(q8, x, n, d, got, unpacked);
        assert_memory_equal(got, want, bytes);
        assert_int_equal(got[bytes], 0x55);
        check_block(q8, x, n, d, got, unpacked);
        table.kv.pack_reps(q8, x, n, d, want, x);
        assert_memory_equal(got, want, bytes);
        assert_memory_equal(x, unpacked, n * d * sizeof(float));
    }
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return score_bench();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pack),           cmocka_unit_test(test_reps),
        cmocka_unit_test(test_reps_nan),       cmocka_unit_test(test_score_rows),
        cmocka_unit_test(test_score_rows_nan), cmocka_unit_test(test_blend_rows),
        cmocka_unit_test(test_log_sum_exp),    cmocka_unit_test(test_log_sum_exp_special),
        cmocka_unit_test(test_rank_scores),    cmocka_unit_test(test_find_within),
    };
    return check_run("k_score", tests, sizeof tests / sizeof tests[0]);
}
