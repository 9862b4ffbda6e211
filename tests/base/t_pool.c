// The thread pool: every thread exactly once per crossing, every item exactly once, no lost
// wake-up, nothing burnt while idle. Meant to run under ThreadSanitizer too.

#include "tests/check.h"

#include "src/base/clock.h"
#include "src/base/mem.h"
#include "src/base/pool.h"

#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { N_THREADS_MAX = 7 };

static const uint32_t team_sizes[] = {1, 2, N_THREADS_MAX};
static const size_t n_teams = sizeof team_sizes / sizeof team_sizes[0];

static struct pool *open_team(uint32_t n_threads)
{
    struct pool *pool = NULL;
    check_ok(pool_open(&(struct pool_params){.n_threads = n_threads}, &pool));
    assert_int_equal(pool_count(pool), n_threads);
    return pool;
}

// Plain numbers, a line each: only the pool's own order makes them safe to read.
struct tally {
    struct {
        uint64_t count;
        uint64_t sum;
        char pad[MEM_ALIGN_BYTES - 2 * sizeof(uint64_t)];
    } threads[N_THREADS_MAX];
    uint64_t number; // of the crossing, written by the caller between crossings
    uint32_t n_threads;
    atomic_uint n_faults;
};

static void count_thread(void *arg, uint32_t thread, uint32_t n_threads)
{
    struct tally *tally = arg;
    if (n_threads != tally->n_threads || thread >= n_threads) {
        atomic_fetch_add(&tally->n_faults, 1);
        return;
    }
    tally->threads[thread].count++;
    tally->threads[thread].sum += tally->number * (thread + 1);
}

static void test_every_thread_once(void **state)
{
    enum { N_CROSSINGS = 3000 };
    (void)state;
    for (size_t i = 0; i < n_teams; i++) {
        struct tally tally = {.n_threads = team_sizes[i]};
        struct pool *pool = open_team(team_sizes[i]);
        for (uint64_t n = 1; n <= N_CROSSINGS; n++) {
            tally.number = n;
            pool_run(pool, count_thread, &tally);
            for (uint32_t thread = 0; thread < tally.n_threads; thread++) {
                assert_int_equal(tally.threads[thread].count, n);
                assert_int_equal(tally.threads[thread].sum, (thread + 1) * n * (n + 1) / 2);
            }
        }
        assert_int_equal(atomic_load(&tally.n_faults), 0);
        pool_close(&pool);
        assert_null(pool);
    }
}

// Pauses around the length of the workers' spinning: crossings meet workers that poll, that are
// about to sleep, and that sleep. A lost wake-up hangs here.
static void test_pauses(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_teams; i++) {
        struct tally tally = {.n_threads = team_sizes[i]};
        struct pool *pool = open_team(team_sizes[i]);
        for (uint64_t n = 1; n <= 600; n++) {
            uint64_t end_ns = clock_ns() + n % 120 * 1000;
            while (clock_ns() < end_ns)
                ;
            tally.number = n;
            pool_run(pool, count_thread, &tally);
            for (uint32_t thread = 0; thread < tally.n_threads; thread++)
                assert_int_equal(tally.threads[thread].count, n);
        }
        pool_close(&pool);
    }
}

static void test_open_close(void **state)
{
    struct pool *pool = NULL;
    (void)state;
    for (int i = 0; i < 50; i++) { // closed before, while and after the workers come up
        pool = open_team(team_sizes[(size_t)i % n_teams]);
        if (i % 3 == 0) usleep(200);
        pool_close(&pool);
    }
    pool_close(&pool);
    pool_close(NULL);
    assert_int_equal(pool_open(&(struct pool_params){.n_threads = 0}, &pool), FATHOM_EINVAL);
    assert_null(pool);
}

struct cover {
    unsigned char *seen; // [n_items]
    size_t n_items;
    size_t grain;
    uint32_t n_threads;
    atomic_uint n_faults;
};

static void cover_range(void *arg, size_t begin, size_t end, uint32_t thread)
{
    struct cover *cover = arg;
    bool right = begin < end && end <= cover->n_items && end - begin <= cover->grain &&
                 begin % cover->grain == 0 && thread < cover->n_threads;
    if (!right) atomic_fetch_add(&cover->n_faults, 1);
    for (size_t i = begin; right && i < end; i++)
        cover->seen[i]++;
}

static void test_for_covers(void **state)
{
    static const size_t sizes[] = {0, 1, 2, 63, 64, 65, 1000, 4097};
    static const size_t grains[] = {1, 3, 64, 5000, SIZE_MAX};
    (void)state;
    for (size_t i = 0; i < n_teams; i++) {
        struct pool *pool = open_team(team_sizes[i]);
        for (size_t j = 0; j < sizeof sizes / sizeof sizes[0]; j++) {
            for (size_t k = 0; k < sizeof grains / sizeof grains[0]; k++) {
                unsigned char seen[4098] = {0};
                struct cover cover = {.seen = seen,
                                      .n_items = sizes[j],
                                      .grain = grains[k],
                                      .n_threads = team_sizes[i]};
                pool_for(pool, sizes[j], grains[k], cover_range, &cover);
                assert_int_equal(atomic_load(&cover.n_faults), 0);
                for (size_t n = 0; n < sizeof seen; n++)
                    assert_int_equal(seen[n], n < sizes[j]);
            }
        }
        pool_close(&pool);
    }
}

struct share {
    size_t counts[2];
    atomic_uint released;
};

// Item 0 ends only when another thread has done all the rest.
static void hold_first(void *arg, size_t begin, size_t end, uint32_t thread)
{
    struct share *share = arg;
    share->counts[thread] += end - begin;
    if (begin == 0)
        while (atomic_load(&share->released) < 99)
            sched_yield();
    else
        atomic_fetch_add(&share->released, 1);
}

// Sharing is dynamic: a thread that is held up keeps one piece, not half of them.
static void test_for_is_dynamic(void **state)
{
    struct share share = {0};
    struct pool *pool = open_team(2);
    (void)state;
    pool_for(pool, 100, 1, hold_first, &share);
    assert_int_equal(share.counts[0] + share.counts[1], 100);
    assert_true(share.counts[0] == 1 || share.counts[1] == 1);
    pool_close(&pool);
}

static void note_cpu(void *arg, uint32_t thread, uint32_t n_threads)
{
    int *cpus = arg;
    (void)n_threads;
    cpus[thread] = sched_getcpu();
}

static void test_pinning(void **state)
{
    cpu_set_t set;
    int seen[2] = {-1, -1};
    struct pool *pool = NULL;
    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    for (int32_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        const int32_t cpus[2] = {-1, cpu};
        if (!CPU_ISSET(cpu, &set)) continue;
        check_ok(pool_open(&(struct pool_params){.n_threads = 2, .cpus = cpus}, &pool));
        pool_run(pool, note_cpu, seen);
        assert_int_equal(seen[1], cpu);
        pool_close(&pool);
    }
    // A CPU that does not exist is no error.
    const int32_t absent[2] = {-1, INT32_MAX};
    check_ok(pool_open(&(struct pool_params){.n_threads = 2, .cpus = absent}, &pool));
    pool_run(pool, note_cpu, seen);
    pool_close(&pool);
}

static void do_nothing(void *arg, uint32_t thread, uint32_t n_threads)
{
    (void)arg;
    (void)thread;
    (void)n_threads;
}

static uint64_t read_cpu_ns(void)
{
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (uint64_t)used.tv_sec * 1000000000 + (uint64_t)used.tv_nsec;
}

static void test_idle_is_free(void **state)
{
    struct pool *pool = open_team(2);
    (void)state;
    pool_run(pool, do_nothing, NULL);
    usleep(20000);
    uint64_t begin_ns = read_cpu_ns();
    usleep(200000);
    assert_true(read_cpu_ns() - begin_ns < 20000000);
    pool_close(&pool);
}

static int compare_times(const void *a, const void *b)
{
    const uint64_t *x = a;
    const uint64_t *y = b;
    return (*x > *y) - (*x < *y);
}

// Prints, asserts nothing: a loaded machine may take any time.
static void test_crossing_cost(void **state)
{
    enum { N_ROUNDS = 101, N_CROSSINGS = 20 };
    (void)state;
    for (size_t i = 0; i < n_teams; i++) {
        uint64_t times_ns[N_ROUNDS];
        struct pool *pool = open_team(team_sizes[i]);
        for (int n = 0; n < N_ROUNDS; n++) {
            uint64_t begin_ns = clock_ns();
            for (int j = 0; j < N_CROSSINGS; j++)
                pool_run(pool, do_nothing, NULL);
            times_ns[n] = (clock_ns() - begin_ns) / N_CROSSINGS;
        }
        qsort(times_ns, N_ROUNDS, sizeof times_ns[0], compare_times);
        printf("crossing, n_threads=%u: median_ns=%llu, p90_ns=%llu\n", team_sizes[i],
               (unsigned long long)times_ns[N_ROUNDS / 2],
               (unsigned long long)times_ns[N_ROUNDS * 9 / 10]);
        pool_close(&pool);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_thread_once), cmocka_unit_test(test_pauses),
        cmocka_unit_test(test_open_close),        cmocka_unit_test(test_for_covers),
        cmocka_unit_test(test_for_is_dynamic),    cmocka_unit_test(test_pinning),
        cmocka_unit_test(test_idle_is_free),      cmocka_unit_test(test_crossing_cost),
    };
    return check_run("t_pool", tests, sizeof tests / sizeof tests[0]);
}
