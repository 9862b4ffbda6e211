// Reads a buffer larger than the caches, by all threads, and takes the best of some rounds: what
// else runs on the machine can only make it slower. Each thread reads a few pieces by turns, a line
// of each: a quarter faster than from one place.

#include "tools/memory_speed.h"

#include <math.h>
#include <string.h>

#include "tools/block.h"
#include "tools/say.h"
#include "tools/timer.h"

enum { BUFFER_BYTES = 1 << 29, N_PIECES = BUFFER_BYTES / MEMORY_PIECE_BYTES, N_ROUNDS = 5 };
enum { PLACES = 8, LINE_WORDS = 8 };

struct reading {
    const uint8_t *buffer;
    bool gathered;
    uint64_t sums[64]; // by thread, so that no read is left out
};

// A permutation of 0 .. N_PIECES - 1.
static uint32_t scatter(uint32_t i)
{
    i = i * 0x9e3779b1u % N_PIECES;
    i ^= i >> 9;
    return i * 0x85ebca6bu % N_PIECES;
}

static uint64_t sum_pieces(const uint8_t *const pieces[PLACES])
{
    uint64_t words[LINE_WORDS], sums[LINE_WORDS] = {0}, sum = 0;
    for (size_t at = 0; at < MEMORY_PIECE_BYTES; at += sizeof words)
        for (int place = 0; place < PLACES; place++) {
            memcpy(words, pieces[place] + at, sizeof words);
            for (int i = 0; i < LINE_WORDS; i++)
                sums[i] += words[i];
        }
    for (int i = 0; i < LINE_WORDS; i++)
        sum += sums[i];
    return sum;
}

static void read_share(void *arg, uint32_t thread, uint32_t n_threads)
{
    struct reading *r = arg;
    const uint32_t n_turns = N_PIECES / n_threads / PLACES;
    const uint32_t first = thread * n_turns * PLACES;
    uint64_t sum = 0;
    for (uint32_t turn = 0; turn < n_turns; turn++) {
        const uint8_t *pieces[PLACES];
        for (uint32_t place = 0; place < PLACES; place++) {
            const uint32_t i = first + place * n_turns + turn;
            pieces[place] = r->buffer + (size_t)(r->gathered ? scatter(i) : i) * MEMORY_PIECE_BYTES;
        }
        sum += sum_pieces(pieces);
    }
    r->sums[thread % 64] += sum;
}

static void measure(struct team *team, struct reading *reading, bool gathered, double *best)
{
    const uint32_t whole = PLACES * team_count(team); // pieces at once; what is left is not read
    const uint32_t n_pieces = N_PIECES / whole * whole;
    const double bytes = (double)n_pieces * MEMORY_PIECE_BYTES;
    reading->gathered = gathered;
    for (int i = 0; i < N_ROUNDS; i++) {
        double start_ms = timer_now_ms();
        team_run(team, read_share, reading);
        *best = fmax(*best, bytes / (timer_now_ms() - start_ms) * 1e-6);
    }
}

int memory_speed_measure(struct team *team, struct memory_speed *speed)
{
    uint8_t *buffer = block_new(BUFFER_BYTES, 1);
    if (buffer == NULL) return EXIT_BAD;
    memset(buffer, 1, BUFFER_BYTES); // pages of zeros that nobody wrote are all the same page
    struct reading reading = {.buffer = buffer};
    measure(team, &reading, false, &speed->read_gbs);
    measure(team, &reading, true, &speed->gather_gbs);
    block_free(buffer);
    return reading.sums[0] != 0 ? EXIT_GOOD : say_error("the memory lost what was written to it");
}
