// The speed of scores: nanoseconds per vector, row or value where they lie in the second-level
// cache, with one thread; and from memory, as a share of what plain reading gets in the same run.

#include "tests/kernels/k_score.h"

#include <math.h>
#include <stdio.h>

#include "src/base/half.h"
#include "src/base/mem.h"
#include "tests/kernels/k_bench.h"

enum { N_THREADS = 2, CHUNK = 1024, RUN_ROWS = 16, CACHE_BYTES = 512 << 10, GROUP_MAX = 8 };
static const size_t memory_bytes = (size_t)512 << 20;

enum job_kind { REPS_Q8, REPS_F16, ROWS_4, ROWS_8, BLEND, JOB_KINDS };
static const char *const job_names[] = {"reps q8", "reps f16", "rows 4 bit", "rows 8 bit", "blend"};

struct score_job {
    const struct kernel_table *table;
    enum job_kind kind;
    uint32_t d, group;
    const char *data;
    uint32_t n_chunks; // of chunk_items each
    uint32_t chunk_items;
    size_t chunk_bytes;
    bool scattered; // chunks in an order that no prefetcher guesses; the next is asked for
    void *packed;
    float *out; // [N_THREADS, GROUP_MAX, CHUNK]
};

static size_t item_bytes(enum job_kind kind, uint32_t d)
{
    if (kind == REPS_Q8 || kind == REPS_F16) return rep_block_bytes(kind == REPS_Q8, d) / REP_LANES;
    return kind == BLEND ? 2 * d : kv_code_bytes(kind == ROWS_4 ? 4 : 8, d);
}

static void score_chunk(const struct score_job *job, const char *data, float *out)
{
    uint32_t n = job->chunk_items;
    if (job->kind == REPS_Q8 || job->kind == REPS_F16) {
        const struct score_reps_args args = {
            job->packed, job->group, job->d, job->kind == REPS_Q8, data, 0, n, out, CHUNK};
        job->table->kv.score_reps(&args);
    } else if (job->kind == BLEND) {
        job->table->kv.blend_rows(job->packed, CHUNK, job->group, (const uint16_t *)data, n, job->d,
                                  out);
    } else {
        const uint8_t *rows[CHUNK];
        for (uint32_t j = 0; j < n; j++)
            rows[j] = (const uint8_t *)data + j * item_bytes(job->kind, job->d);
        const struct score_rows_args args = {
            .q = job->packed,
            .group = job->group,
            .d = job->d,
            .bits = job->kind == ROWS_4 ? 4 : 8,
            .rows = rows,
            .n_rows = n,
            .out = out,
            .out_stride = CHUNK,
        };
        job->table->kv.score_rows(&args);
    }
}

static void score_share(void *arg, uint32_t thread, uint32_t n_threads)
{
    const struct score_job *job = arg;
    uint32_t step = job->scattered ? 0x9e3779b1u : 1, mask = job->n_chunks - 1;
    uint32_t begin = (uint32_t)((uint64_t)job->n_chunks * thread / n_threads);
    uint32_t end = (uint32_t)((uint64_t)job->n_chunks * (thread + 1) / n_threads);
    for (uint32_t i = begin; i < end; i++) {
        const char *next = job->data + (size_t)((i + 2) * step & mask) * job->chunk_bytes;
        for (size_t at = 0; job->scattered && at < job->chunk_bytes; at += 64)
            __builtin_prefetch(next + at);
        score_chunk(job, job->data + (size_t)(i * step & mask) * job->chunk_bytes,
                    job->out + thread * GROUP_MAX * CHUNK);
    }
}

static void pack_query(const struct score_job *job)
{
    static float q[GROUP_MAX * SCORE_D_MAX], k_min[SCORE_D_MAX], k_step[SCORE_D_MAX];
    float slack[GROUP_MAX];
    for (uint32_t i = 0; i < GROUP_MAX * SCORE_D_MAX; i++)
        q[i] = (float)(i % 17) - 8;
    for (uint32_t c = 0; c < SCORE_D_MAX; c++)
        k_min[c] = -1, k_step[c] = 0.1f;
    if (job->kind == BLEND)
        for (uint32_t i = 0; i < job->group * CHUNK; i++)
            ((float *)job->packed)[i] = 1e-3f;
    else if (job->kind == REPS_Q8 || job->kind == REPS_F16)
        job->table->kv.pack_rep_query(job->kind == REPS_Q8, q, job->group, job->d, job->packed,
                                      slack);
    else
        job->table->kv.pack_row_query(job->kind == ROWS_4 ? 4 : 8, q, job->group, job->d, k_min,
                                      k_step, job->packed, slack);
}

// Chunks as many as a power of two of them fits into the memory.
static void set_chunks(struct score_job *job, uint32_t items, size_t bytes)
{
    job->chunk_items = items;
    job->chunk_bytes = items * item_bytes(job->kind, job->d);
    job->n_chunks = 1;
    while (2 * job->n_chunks * job->chunk_bytes <= bytes)
        job->n_chunks *= 2;
}

static void bench_shape(struct pool *one, struct pool *all, struct score_job *job, const char *name,
                        double read_gbps)
{
    size_t row_bytes = item_bytes(job->kind, job->d);
    bool rows = job->kind == ROWS_4 || job->kind == ROWS_8;
    pack_query(job);
    job->scattered = false;
    set_chunks(job, CHUNK, CACHE_BYTES);
    double warm_ns = bench_ns(one, score_share, job) / job->n_chunks / job->chunk_items;
    job->scattered = rows;
    set_chunks(job, rows ? RUN_ROWS : CHUNK, memory_bytes);
    double cold_ns = bench_ns(all, score_share, job) / job->n_chunks / job->chunk_items;
    double gbps = (double)row_bytes / cold_ns;
    printf("%-7s %-10s d %-3u group %u %7.2f ns in cache; memory, %d threads: %6.2f ns %6.2f GB/s "
           "%5.1f %% of reading's %.1f\n",
           name, job_names[job->kind], job->d, job->group, warm_ns, N_THREADS, cold_ns, gbps,
           100 * gbps / read_gbps, read_gbps);
}

enum { PACK_STEPS = 2000, LSE_COUNT = 4096 };
enum pack_kind {
    PACK_REPS_Q8,
    PACK_REPS_F16,
    PACK_REP_QUERY,
    PACK_ROW_QUERY,
    SUM_EXP,
    RANK,
    FIND,
    PACK_KINDS
};

struct pack_job {
    const struct kernel_table *table;
    enum pack_kind kind;
    float *x;   // [LSE_COUNT]
    float *out; // as packed_query_bytes of 16 heads, more than LSE_COUNT
};

static void pack_steps(void *arg, uint32_t thread, uint32_t n_threads)
{
    const struct pack_job *job = arg;
    const struct kv_kernels *kv = &job->table->kv;
    float slack[4];
    (void)thread, (void)n_threads;
    for (int i = 0; i < PACK_STEPS; i++)
        switch (job->kind) {
        case PACK_REPS_Q8:
        case PACK_REPS_F16:
            kv->pack_reps(job->kind == PACK_REPS_Q8, job->x, REP_LANES, 64, job->out, job->x);
            break;
        case PACK_REP_QUERY:
            kv->pack_rep_query(true, job->x, 4, 64, job->out, slack);
            break;
        case PACK_ROW_QUERY:
            kv->pack_row_query(4, job->x, 4, 64, job->x + 256, job->x + 320, job->out, slack);
            break;
        case RANK:
            kv->rank_scores(&(struct rank_args){.scores = job->x,
                                                .stride = LSE_COUNT / 4,
                                                .mass = job->x,
                                                .group = 4,
                                                .n = LSE_COUNT / 4,
                                                .out = job->out});
            break;
        case FIND: // one in seven
            kv->find_within(&(struct find_args){
                .x = job->x, .n = LSE_COUNT, .least = 3, .most = INFINITY, .at = (void *)job->out});
            break;
        default:
            job->out[0] = kv->log_sum_exp(job->x, NULL, LSE_COUNT);
            break;
        }
}

static void bench_packing(struct pool *one, struct pack_job *job, const char *name)
{
    static const char *const names[] = {"16 vectors of 64 into q8",
                                        "16 vectors of 64 into f16",
                                        "query of 4 x 64 for q8",
                                        "query of 4 x 64 for rows",
                                        "log-sum-exp of 4096",
                                        "rank of 1024, 4 heads",
                                        "1 in 7 of 4096"};
    for (job->kind = 0; job->kind < PACK_KINDS; job->kind++) {
        for (int i = 0; i < LSE_COUNT; i++)
            job->x[i] = (float)(i % 7) - 3;
        double ns = bench_ns(one, pack_steps, job) / PACK_STEPS;
        printf("%-7s %-25s %8.1f ns\n", name, names[job->kind], ns);
    }
}

static void bench_variants(struct pool *one, struct pool *all, struct score_job *job,
                           struct pack_job *pack, struct kernel_table *table)
{
    static const uint32_t shapes[][2] = {{64, 4}, {64, 8}, {128, 4}, {128, 8}};
    const char *name;
    job->table = pack->table = table;
    for (int variant = 1; variant < SCORE_VARIANTS; variant++) {
        if (!score_variant(variant, table, &name)) continue;
        double read_gbps = bench_read_gbps(all, job->data, memory_bytes);
        for (job->kind = 0; job->kind < JOB_KINDS; job->kind++)
            for (int i = 0; i < 4; i++) {
                job->d = shapes[i][0];
                job->group = shapes[i][1];
                bench_shape(one, all, job, name, read_gbps);
            }
        bench_packing(one, pack, name);
    }
}

int score_bench(void)
{
    const struct pool_params params = {.n_threads = 1}, all_params = {.n_threads = N_THREADS};
    struct pool *one = NULL, *all = NULL;
    struct score_job job = {0};
    struct pack_job pack = {0};
    struct kernel_table table;
    void *data = NULL;
    if (pool_open(&params, &one) < 0 || pool_open(&all_params, &all) < 0 ||
        mem_reserve(memory_bytes, MEM_PAGES_HUGE, "data", &data) < 0 ||
        mem_new(GROUP_MAX * CHUNK, sizeof(float), "query", &job.packed) < 0 ||
        mem_new(N_THREADS * GROUP_MAX * CHUNK, sizeof(float), "scores", &job.out) < 0 ||
        mem_new(LSE_COUNT, sizeof(float), "values", &pack.x) < 0 ||
        mem_new(1, packed_query_bytes(16), "packed", &pack.out) < 0) {
        fprintf(stderr, "k_score: %s\n", fathom_last_error());
        return 1;
    }
    job.data = data;
    uint64_t *words = data;
    struct rng rng;
    rng_init(&rng, 1);
    for (size_t i = 0; i < memory_bytes / 8; i++) // halves of either sign, steps that are numbers
        words[i] = (rng_u64(&rng) & 0x8fff8fff8fff8fff) | 0x3000300030003000;
    bench_variants(one, all, &job, &pack, &table);
    mem_unreserve(data, memory_bytes);
    mem_free(job.packed);
    mem_free(job.out);
    mem_free(pack.x);
    mem_free(pack.out);
    pool_close(&one);
    pool_close(&all);
    return 0;
}
