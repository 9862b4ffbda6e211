// Threads that wait for work on a condition. `round` counts the calls of team_run; a worker that
// has seen round r waits for r + 1. All of it is guarded by `lock`.

#include "tools/team.h"

#include <pthread.h>
#include <stdbool.h>
#include <unistd.h>

#include "tools/block.h"
#include "tools/say.h"

struct team {
    pthread_mutex_t lock;
    pthread_cond_t begun;
    pthread_cond_t ended;
    pthread_t *workers; // [n_threads - 1]
    uint32_t n_threads; // that run, the caller among them
    uint32_t n_named;   // workers that have taken their number
    uint32_t n_busy;
    uint64_t round;
    team_fn fn; // NULL in the round that ends the workers
    void *arg;
};

static void *work(void *arg)
{
    struct team *team = arg;
    uint64_t seen = 0;
    pthread_mutex_lock(&team->lock);
    const uint32_t thread = ++team->n_named;
    for (;;) {
        while (team->round == seen)
            pthread_cond_wait(&team->begun, &team->lock);
        seen = team->round;
        if (team->fn == NULL) break;
        pthread_mutex_unlock(&team->lock);
        team->fn(team->arg, thread, team->n_threads);
        pthread_mutex_lock(&team->lock);
        if (--team->n_busy == 0) pthread_cond_signal(&team->ended);
    }
    pthread_mutex_unlock(&team->lock);
    return NULL;
}

static void begin(struct team *team, team_fn fn, void *arg)
{
    pthread_mutex_lock(&team->lock);
    team->fn = fn;
    team->arg = arg;
    team->n_busy = team->n_threads - 1;
    team->round++;
    pthread_cond_broadcast(&team->begun);
    pthread_mutex_unlock(&team->lock);
}

int team_open(uint32_t n_threads, struct team **team)
{
    long n_processors = sysconf(_SC_NPROCESSORS_ONLN);
    if (n_threads == 0) n_threads = n_processors > 0 ? (uint32_t)n_processors : 1;
    struct team *t = block_new(1, sizeof *t);
    if (t == NULL) return EXIT_BAD;
    *team = t;
    t->n_threads = 1;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->begun, NULL);
    pthread_cond_init(&t->ended, NULL);
    t->workers = block_new(n_threads, sizeof *t->workers);
    if (t->workers == NULL) return EXIT_BAD;
    // n_threads is read by workers in a round only; the first one begins after this.
    for (; t->n_threads < n_threads; t->n_threads++)
        if (pthread_create(&t->workers[t->n_threads - 1], NULL, work, t) != 0)
            return say_error("cannot start %u threads: give a smaller -t", n_threads);
    return EXIT_GOOD;
}

void team_close(struct team **team)
{
    struct team *t = *team;
    if (t == NULL) return;
    begin(t, NULL, NULL);
    for (uint32_t i = 0; i + 1 < t->n_threads; i++)
        pthread_join(t->workers[i], NULL);
    pthread_cond_destroy(&t->ended);
    pthread_cond_destroy(&t->begun);
    pthread_mutex_destroy(&t->lock);
    block_free(t->workers);
    block_free(t);
    *team = NULL;
}

uint32_t team_count(const struct team *team)
{
    return team->n_threads;
}

void team_run(struct team *team, team_fn fn, void *arg)
{
    begin(team, fn, arg);
    fn(arg, 0, team->n_threads);
    pthread_mutex_lock(&team->lock);
    while (team->n_busy > 0)
        pthread_cond_wait(&team->ended, &team->lock);
    pthread_mutex_unlock(&team->lock);
}
