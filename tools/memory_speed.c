// Reads a buffer larger than the caches, by all threads, and takes the best of some rounds: what
// else runs on the machine can only make it slower.

#include "tools/memory_speed.h"

#include <math.h>
#include <string.h>

#include "tools/block.h"
#include "tools/say.h"
#include "tools/timer.h"

enum { BUFFER_BYTES = 1 << 29, N_PIECES = BUFFER_BYTES / MEMORY_PIECE_BYTES, N_ROUNDS = 5 };

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

static const uint8_t *piece_at(const struct reading *r, uint32_t i)
{
    return r->buffer + (size_t)(r->gathered ? scatter(i) : i) * MEMORY_PIECE_BYTES;
}

// Asks for the next piece meanwhile: the hardware does not guess where one in another place begins.
static uint64_t sum_piece(const uint8_t *piece, const uint8_t *next)
{
    enum { LANES = 8, WORDS = MEMORY_PIECE_BYTES / 8 };
    uint64_t words[LANES], sums[LANES] = {0}, sum = 0;
    for (size_t i = 0; i < WORDS; i += LANES) {
        __builtin_prefetch(next + i * 8);
        memcpy(words, piece + i * 8, sizeof words);
        for (int j = 0; j < LANES; j++)
            sums[j] += words[j];
    }
    for (int j = 0; j < LANES; j++)
        sum += sums[j];
    return sum;
}

static void read_share(void *arg, uint32_t thread, uint32_t n_threads)
{
    struct reading *r = arg;
    const uint32_t begin = (uint32_t)((uint64_t)N_PIECES * thread / n_threads);
    const uint32_t end = (uint32_t)((uint64_t)N_PIECES * (thread + 1) / n_threads);
    uint64_t sum = 0;
    for (uint32_t i = begin; i < end; i++)
        sum += sum_piece(piece_at(r, i), piece_at(r, i + 1 < end ? i + 1 : i));
    r->sums[thread % 64] += sum;
}

static void measure(struct team *team, struct reading *reading, bool gathered, double *best)
{
    reading->gathered = gathered;
    for (int i = 0; i < N_ROUNDS; i++) {
        double start_ms = timer_now_ms();
        team_run(team, read_share, reading);
        *best = fmax(*best, (double)BUFFER_BYTES / (timer_now_ms() - start_ms) * 1e-6);
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
