// A team of threads for the crossings of a decode step.
//
// One crossing, with the words that order it (each side names its partner):
//
//     caller                                     worker
//     fn, arg, n_left = plain and relaxed
//     round + 1, seq_cst         [publish]  ->   round, seq_cst               [see]
//     n_asleep, seq_cst          [wake]     <-   n_asleep + 1, seq_cst        [doze]
//     runs fn as thread 0                        runs fn
//     n_left, seq_cst            [joined]   <-   n_left - 1, seq_cst          [finish]
//     caller_asleep, seq_cst     [wait]     ->   caller_asleep, seq_cst       [tell]
//
// Both waits begin with SPIN_NS of polling, since the next crossing is most often microseconds
// away, and then sleep in the kernel (futex), so an idle pool costs nothing. Sleeping is announced
// before the watched word is read for the last time, and the watched word is written before the
// announcement is read; sequential consistency means that at least one side sees the other, so no
// wake-up is lost and, while nobody sleeps, nobody calls the kernel.
//
// fn, arg and n_left need no more: only the caller writes them, after [joined], when every worker
// is past its last read of them.

#include "src/base/pool.h"

#include "src/base/clock.h"
#include "src/base/mem.h"
#include "src/base/status.h"

#include <assert.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    SPIN_NS = 50 * 1000, // about the cost of a sleep and a wake-up, so at most twice the best
    YIELD_NS = 5 * 1000, // of polling, then also offer the core to whoever waits for it
    PAUSES_PER_LOOK = 8, // between two looks at the clock
};

typedef _Atomic(uint32_t) word;
static_assert(sizeof(word) == sizeof(uint32_t), "a futex is a plain 32-bit word");

struct worker {
    struct pool *pool;
    pthread_t thread;
    uint32_t index; // of the team; never 0
    int32_t cpu;    // -1: any
};

struct pool {
    uint32_t n_threads;     // that run, the caller included
    struct worker *workers; // [n_threads - 1]
    pool_fn fn;             // of this crossing; NULL: end of the thread
    void *arg;
    // A line each: the caller writes the first, all workers write the second.
    alignas(MEM_ALIGN_BYTES) word round;  // crossings so far, modulo 2^32
    word n_asleep;                        // workers that sleep, or are about to
    alignas(MEM_ALIGN_BYTES) word n_left; // workers that have not finished this crossing
    word caller_asleep;                   // 1: as n_asleep
};

static void wait_on(word *at, uint32_t value)
{
    // Any reason to return is fine, the callers look again.
    (void)syscall(SYS_futex, at, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void wake_all(word *at)
{
    (void)syscall(SYS_futex, at, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

// Tells the core that this is a polling loop, so that its other hardware thread gets the units.
static void relax_core(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

// Polls until the word has, or with `differ` no longer has, the value; false after SPIN_NS. The one
// that is waited for may itself wait for this very core, hence the yielding: it makes a crossing of
// two threads on one core 12 us instead of 105 (virtual AMD EPYC, 2026-11).
static bool spin_until(const word *at, uint32_t value, bool differ)
{
    uint64_t begin_ns = clock_ns();
    for (uint64_t spent_ns = 0; spent_ns < SPIN_NS; spent_ns = clock_ns() - begin_ns) {
        if (spent_ns > YIELD_NS) sched_yield();
        for (int i = 0; i < PAUSES_PER_LOOK; i++) {
            if ((atomic_load(at) == value) != differ) return true; // [see], [joined]
            relax_core();
        }
    }
    return false;
}

static void await_round(struct pool *pool, uint32_t done_round)
{
    if (spin_until(&pool->round, done_round, true)) return;
    atomic_fetch_add(&pool->n_asleep, 1);           // [doze], read at [wake]
    while (atomic_load(&pool->round) == done_round) // [see], written at [publish]
        wait_on(&pool->round, done_round);
    atomic_fetch_sub(&pool->n_asleep, 1);
}

static void await_workers(struct pool *pool)
{
    if (spin_until(&pool->n_left, 0, false)) return;
    atomic_store(&pool->caller_asleep, 1); // [wait], read at [tell]
    uint32_t n_left;
    while ((n_left = atomic_load(&pool->n_left)) != 0) // [joined], written at [finish]
        wait_on(&pool->n_left, n_left);
    atomic_store(&pool->caller_asleep, 0);
}

static void pin_self(int32_t cpu)
{
    if (cpu < 0 || cpu >= CPU_SETSIZE) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    // A CPU that is offline or forbidden: the thread stays where the system puts it.
    (void)pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

static void *run_worker(void *arg)
{
    const struct worker *worker = arg;
    struct pool *pool = worker->pool;
    pin_self(worker->cpu);
    for (uint32_t done_round = 0;; done_round++) {
        await_round(pool, done_round);
        if (pool->fn == NULL) return NULL;
        pool->fn(pool->arg, worker->index, pool->n_threads);
        if (atomic_fetch_sub(&pool->n_left, 1) == 1 && // [finish], read at [joined]
            atomic_load(&pool->caller_asleep) != 0)    // [tell], written at [wait]
            wake_all(&pool->n_left);
    }
}

// Lets the workers into the next crossing.
static void start_round(struct pool *pool, pool_fn fn, void *arg)
{
    pool->fn = fn;
    pool->arg = arg;
    atomic_store_explicit(&pool->n_left, pool->n_threads - 1, memory_order_relaxed);
    atomic_fetch_add(&pool->round, 1);                            // [publish], read at [see]
    if (atomic_load(&pool->n_asleep) > 0) wake_all(&pool->round); // [wake], written at [doze]
}

// Signals belong to the program's own threads: workers start with all of them blocked.
static fathom_status start_worker(struct worker *worker)
{
    sigset_t all;
    sigset_t old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = pthread_create(&worker->thread, NULL, run_worker, worker);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error != 0)
        return status_set(FATHOM_ENOMEM, "thread %u does not start: %s; use fewer threads",
                          worker->index, strerror(error));
    return FATHOM_OK;
}

fathom_status pool_open(const struct pool_params *params, struct pool **pool)
{
    struct pool *opened = NULL;
    fathom_status status = FATHOM_OK;
    if (params->n_threads == 0)
        return status_set(FATHOM_EINVAL, "n_threads=0: a pool needs at least 1");
    FATHOM_TRY(mem_new(1, sizeof *opened, "thread pool", &opened));
    opened->n_threads = 1;
    FATHOM_CHECK(
        mem_new(params->n_threads - 1, sizeof *opened->workers, "threads", &opened->workers), out);
    for (uint32_t i = 1; i < params->n_threads; i++) {
        struct worker *worker = &opened->workers[i - 1];
        worker->pool = opened;
        worker->index = i;
        worker->cpu = params->cpus != NULL ? params->cpus[i] : -1;
        FATHOM_CHECK(start_worker(worker), out);
        opened->n_threads++; // workers read it after their first [see]
    }
    *pool = opened;
    return FATHOM_OK;
out:
    pool_close(&opened);
    return status;
}

void pool_close(struct pool **pool)
{
    if (pool == NULL || *pool == NULL) return;
    struct pool *closing = *pool;
    start_round(closing, NULL, NULL);
    for (uint32_t i = 1; i < closing->n_threads; i++)
        pthread_join(closing->workers[i - 1].thread, NULL);
    mem_free(closing->workers);
    mem_free(closing);
    *pool = NULL;
}

uint32_t pool_count(const struct pool *pool)
{
    return pool->n_threads;
}

void pool_run(struct pool *pool, pool_fn fn, void *arg)
{
    assert(fn != NULL);
    if (pool->n_threads > 1) start_round(pool, fn, arg);
    fn(arg, 0, pool->n_threads);
    if (pool->n_threads > 1) await_workers(pool);
}

struct range_job {
    pool_range_fn fn;
    void *arg;
    size_t n_items;
    size_t grain;
    size_t n_pieces;
    _Atomic(size_t) next_piece; // relaxed: only hands out numbers, pool_run orders the data
};

static void run_pieces(void *arg, uint32_t thread, uint32_t n_threads)
{
    struct range_job *job = arg;
    (void)n_threads;
    for (;;) {
        size_t piece = atomic_fetch_add_explicit(&job->next_piece, 1, memory_order_relaxed);
        if (piece >= job->n_pieces) return;
        size_t begin = piece * job->grain;
        size_t n_rest = job->n_items - begin;
        job->fn(job->arg, begin, begin + (n_rest < job->grain ? n_rest : job->grain), thread);
    }
}

void pool_for(struct pool *pool, size_t n_items, size_t grain, pool_range_fn fn, void *arg)
{
    assert(grain > 0);
    size_t n_pieces = n_items / grain + (n_items % grain != 0);
    if (n_pieces <= 1) {
        if (n_pieces == 1) fn(arg, 0, n_items, 0);
        return;
    }
    struct range_job job = {
        .fn = fn, .arg = arg, .n_items = n_items, .grain = grain, .n_pieces = n_pieces};
    pool_run(pool, run_pieces, &job);
}
