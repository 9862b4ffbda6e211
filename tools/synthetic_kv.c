// Synthetic rows. Everything is drawn from one table of Gaussian vectors: a vector of its own is a
// signed sum of three of them, the noise of a row a sum of two, picked by hashes. So a row costs
// two additions for each value, needs no memory of its own, and any row can be made at any time.
//
//     key   = head's offset + topic + TOPIC_EPISODE * episode + noise     (needle: its own vector)
//     value = topic + episode + noise, of other draws
//     query = offset that keys lack + gains * (two topics, an episode) + noise, or aimed at a
//     needle
//
// Gains are such that a token of the query's first topic outweighs a stranger e^GAIN_TOPIC times.

#include "tools/synthetic_kv.h"

#include <math.h>
#include <string.h>

#include "tools/block.h"
#include "tools/random.h"
#include "tools/say.h"

enum {
    TABLE_VECTORS = 4096,
    NOISE_VECTORS = 256, // small enough for a core's own cache
    N_TOPICS = 128,
    EPISODE_TOKENS_LEAST = 64,
    EPISODE_TOKENS_SPAN = 384,
    N_NEEDLES = 32,
    OUTLIERS = 4,    // channels of keys that are far off zero in a head
    TOPIC_STEPS = 8, // steps before the queries' topic changes
    NEEDLE_ODDS = 8, // one query in so many aims at a needle
    SHARE_ROWS = 64, // rows that are worth a thread
};

#define EPISODE      0.5f // size of vectors; a topic's is 1
#define NOISE        0.6f
#define OUTLIER      8.0f
#define QUERY_OFFSET 0.8f
#define QUERY_NOISE  0.2f
#define GAIN_TOPIC   7.0f // logits, above those of strangers
#define GAIN_OTHER   5.0f
#define GAIN_EPISODE 3.0f
#define GAIN_NEEDLE  18.0f

enum kind {
    KEY_OFFSET,
    KEY_TOPIC,
    KEY_EPISODE,
    VALUE_TOPIC,
    VALUE_EPISODE,
    KEY_NEEDLE,
    VALUE_NEEDLE,
    ASKED_OFFSET,
    ASKED_NOISE,
    ROW_NOISE,
    CHOICE
};

struct episode {
    uint32_t begin; // first token
    uint32_t topic;
};

struct synthetic_kv {
    struct kv_shape shape;
    uint64_t seed;
    struct team *team;
    uint32_t d;   // the larger of d_k and d_v
    float *table; // [TABLE_VECTORS, d]
    float *noise; // [NOISE_VECTORS, d], of half NOISE's variance
    float *bases; // [threads, n_kv_heads, d_k + d_v]: rows of the current episode less the noise
    struct episode *episodes;
    size_t n_episodes;
    uint32_t needles[N_NEEDLES]; // tokens
    uint32_t *places;            // [n_steps]
    uint32_t n_steps;
};

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static uint64_t draw(const struct synthetic_kv *s, enum kind kind, uint32_t layer, uint32_t head,
                     uint64_t id)
{
    uint64_t place = mix((uint64_t)layer << 40 | (uint64_t)head << 8 | (uint64_t)kind);
    return mix(mix(s->seed + 0x9e3779b97f4a7c15 * (id + 1)) ^ place);
}

// out += scale * the vector that a draw names, d values of unit variance.
static void add_vector(const struct synthetic_kv *s, uint64_t draw_bits, float scale, uint32_t d,
                       float *out)
{
    const float *a = s->table + draw_bits % TABLE_VECTORS * s->d;
    const float *b = s->table + (draw_bits >> 16) % TABLE_VECTORS * s->d;
    const float *c = s->table + (draw_bits >> 32) % TABLE_VECTORS * s->d;
    const float size = scale * 0.57735027f;
    for (uint32_t i = 0; i < d; i++)
        out[i] += size * (a[i] + b[i] - c[i]);
}

static size_t find_episode(const struct synthetic_kv *s, uint32_t token)
{
    size_t low = 0, high = s->n_episodes;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (s->episodes[middle].begin <= token)
            low = middle;
        else
            high = middle;
    }
    return low;
}

// ---- Keys and values ----------------------------------------------------------------------------

static void add_offset(const struct synthetic_kv *s, uint32_t layer, uint32_t head, float *k)
{
    const uint64_t bits = draw(s, KEY_OFFSET, layer, head, 0);
    add_vector(s, bits, 1.0f, s->shape.d_k, k);
    for (int i = 0; i < OUTLIERS; i++)
        k[(bits >> (8 * i)) % s->shape.d_k] += OUTLIER;
}

static void make_bases(const struct synthetic_kv *s, uint32_t layer, size_t episode, float *bases)
{
    const struct kv_shape *p = &s->shape;
    const uint32_t topic = s->episodes[episode].topic;
    memset(bases, 0, (size_t)p->n_kv_heads * (p->d_k + p->d_v) * sizeof *bases);
    for (uint32_t h = 0; h < p->n_kv_heads; h++) {
        float *k = bases + (size_t)h * (p->d_k + p->d_v), *v = k + p->d_k;
        add_offset(s, layer, h, k);
        add_vector(s, draw(s, KEY_TOPIC, layer, h, topic), 1.0f, p->d_k, k);
        add_vector(s, draw(s, KEY_EPISODE, layer, h, episode), EPISODE, p->d_k, k);
        add_vector(s, draw(s, VALUE_TOPIC, layer, h, topic), 1.0f, p->d_v, v);
        add_vector(s, draw(s, VALUE_EPISODE, layer, h, episode), EPISODE, p->d_v, v);
    }
}

static void sum(float *FATHOM_RESTRICT out, const float *base, const float *a, const float *b,
                uint32_t d)
{
    for (uint32_t i = 0; i < d; i++)
        out[i] = base[i] + a[i] + b[i];
}

static void put_needle(const struct synthetic_kv *s, uint32_t layer, uint32_t needle, float *k,
                       float *v)
{
    const struct kv_shape *p = &s->shape;
    memset(k, 0, (size_t)p->n_kv_heads * p->d_k * sizeof *k);
    memset(v, 0, (size_t)p->n_kv_heads * p->d_v * sizeof *v);
    for (uint32_t h = 0; h < p->n_kv_heads; h++) {
        add_offset(s, layer, h, k + (size_t)h * p->d_k);
        add_vector(s, draw(s, KEY_NEEDLE, layer, h, needle), 1.0f, p->d_k, k + (size_t)h * p->d_k);
        add_vector(s, draw(s, VALUE_NEEDLE, layer, h, needle), 2.0f, p->d_v,
                   v + (size_t)h * p->d_v);
    }
}

struct rows_share {
    const struct synthetic_kv *s;
    uint32_t layer, first, n;
    float *k, *v;
};

static void make_token(const struct synthetic_kv *s, uint32_t layer, uint32_t token,
                       const float *bases, float *k, float *v)
{
    const struct kv_shape *p = &s->shape;
    for (uint32_t h = 0; h < p->n_kv_heads; h++) {
        const float *base = bases + (size_t)h * (p->d_k + p->d_v);
        const uint64_t bits = draw(s, ROW_NOISE, layer, h, token);
        const float *n[4];
        for (int i = 0; i < 4; i++)
            n[i] = s->noise + (bits >> (8 * i)) % NOISE_VECTORS * s->d;
        sum(k + (size_t)h * p->d_k, base, n[0], n[1], p->d_k);
        sum(v + (size_t)h * p->d_v, base + p->d_k, n[2], n[3], p->d_v);
    }
}

static void make_share(void *arg, uint32_t thread, uint32_t n_threads)
{
    const struct rows_share *r = arg;
    const struct synthetic_kv *s = r->s;
    const struct kv_shape *p = &s->shape;
    const size_t k_values = (size_t)p->n_kv_heads * p->d_k,
                 v_values = (size_t)p->n_kv_heads * p->d_v;
    float *bases = s->bases + thread * (k_values + v_values);
    const uint32_t begin = (uint32_t)((uint64_t)r->n * thread / n_threads);
    const uint32_t end = (uint32_t)((uint64_t)r->n * (thread + 1) / n_threads);
    size_t episode = find_episode(s, r->first + begin);
    for (uint32_t i = begin; i < end; i++) {
        const uint32_t token = r->first + i;
        const bool next = episode + 1 < s->n_episodes && s->episodes[episode + 1].begin <= token;
        if (next) episode++;
        if (next || i == begin) make_bases(s, r->layer, episode, bases);
        make_token(s, r->layer, token, bases, r->k + i * k_values, r->v + i * v_values);
    }
    for (uint32_t needle = 0; needle < N_NEEDLES; needle++) {
        const uint32_t i = s->needles[needle] - r->first;
        if (s->needles[needle] >= r->first && i >= begin && i < end)
            put_needle(s, r->layer, needle, r->k + i * k_values, r->v + i * v_values);
    }
}

static int make_rows(void *self, uint32_t layer, uint32_t first, uint32_t n, float *k, float *v)
{
    struct synthetic_kv *s = self;
    struct rows_share share = {s, layer, first, n, k, v};
    if (n < SHARE_ROWS)
        make_share(&share, 0, 1);
    else
        team_run(s->team, make_share, &share);
    return EXIT_GOOD;
}

// ---- Queries ------------------------------------------------------------------------------------

static void make_query(const struct synthetic_kv *s, uint32_t layer, uint32_t head, uint32_t step,
                       float *q)
{
    const struct kv_shape *p = &s->shape;
    const uint32_t h = head / (p->n_heads / p->n_kv_heads);
    // A logit is <q, k> / sqrt(d), and <x, x> = d for a vector of the table.
    const float unit = 1.0f / sqrtf((float)p->d_k);
    const uint64_t own = draw(s, CHOICE, layer, head, step);
    const uint64_t shared = draw(s, CHOICE, layer, p->n_heads + h, step / TOPIC_STEPS);
    const size_t n_past = find_episode(s, s->places[step]) + 1;
    const size_t episode = (size_t)((shared >> 8) % n_past), other = (size_t)((own >> 8) % n_past);
    memset(q, 0, p->d_k * sizeof *q);
    add_vector(s, draw(s, ASKED_OFFSET, layer, h, 0), QUERY_OFFSET, p->d_k, q);
    add_vector(s, draw(s, ASKED_NOISE, layer, head, step), QUERY_NOISE, p->d_k, q);
    if (own % NEEDLE_ODDS == 0) {
        const uint64_t needle = (own >> 40) % N_NEEDLES;
        add_vector(s, draw(s, KEY_NEEDLE, layer, h, needle), GAIN_NEEDLE * unit, p->d_k, q);
        return;
    }
    add_vector(s, draw(s, KEY_TOPIC, layer, h, s->episodes[episode].topic), GAIN_TOPIC * unit,
               p->d_k, q);
    add_vector(s, draw(s, KEY_EPISODE, layer, h, episode), GAIN_EPISODE / EPISODE * unit, p->d_k,
               q);
    add_vector(s, draw(s, KEY_TOPIC, layer, h, s->episodes[other].topic), GAIN_OTHER * unit, p->d_k,
               q);
}

static int make_queries(void *self, uint32_t layer, uint32_t step, float *q)
{
    const struct synthetic_kv *s = self;
    for (uint32_t head = 0; head < s->shape.n_heads; head++)
        make_query(s, layer, head, step, q + (size_t)head * s->shape.d_k);
    return EXIT_GOOD;
}

// ---- Life ---------------------------------------------------------------------------------------

static double gauss(struct random *random)
{
    const double radius = sqrt(-2 * log(1 - random_unit(random)));
    return radius * cos(6.283185307179586 * random_unit(random));
}

static void fill_tables(struct synthetic_kv *s, struct random *random)
{
    for (size_t i = 0; i < (size_t)TABLE_VECTORS * s->d; i++)
        s->table[i] = (float)gauss(random);
    for (size_t i = 0; i < (size_t)NOISE_VECTORS * s->d; i++)
        s->noise[i] = NOISE * 0.70710678f * (float)gauss(random);
}

static void write_text(struct synthetic_kv *s, struct random *random, uint32_t n_tokens)
{
    for (uint32_t token = 0; token < n_tokens + s->n_steps;) {
        s->episodes[s->n_episodes++] = (struct episode){token, random_below(random, N_TOPICS)};
        token += EPISODE_TOKENS_LEAST + random_below(random, EPISODE_TOKENS_SPAN);
    }
    for (int i = 0; i < N_NEEDLES; i++)
        s->needles[i] = random_below(random, n_tokens);
    for (uint32_t i = 0; i < s->n_steps; i++)
        s->places[i] = n_tokens + i;
}

int synthetic_kv_open(const struct kv_shape *shape, uint32_t n_tokens, uint32_t n_steps,
                      uint64_t seed, struct team *team, struct synthetic_kv **synth)
{
    struct synthetic_kv *s = block_new(1, sizeof *s);
    if (s == NULL) return EXIT_BAD;
    *synth = s;
    s->shape = *shape;
    s->seed = seed;
    s->team = team;
    s->n_steps = n_steps;
    s->d = shape->d_k > shape->d_v ? shape->d_k : shape->d_v;
    s->table = block_new(TABLE_VECTORS, s->d * sizeof *s->table);
    s->noise = block_new(NOISE_VECTORS, s->d * sizeof *s->noise);
    s->bases = block_new((size_t)team_count(team) * shape->n_kv_heads,
                         (shape->d_k + shape->d_v) * sizeof *s->bases);
    s->episodes =
        block_new(((size_t)n_tokens + n_steps) / EPISODE_TOKENS_LEAST + 1, sizeof *s->episodes);
    s->places = block_new(n_steps, sizeof *s->places);
    if (s->table == NULL || s->noise == NULL || s->bases == NULL || s->episodes == NULL ||
        s->places == NULL)
        return EXIT_BAD;
    struct random random;
    random_init(&random, seed);
    fill_tables(s, &random);
    write_text(s, &random, n_tokens);
    return EXIT_GOOD;
}

void synthetic_kv_close(struct synthetic_kv **synth)
{
    struct synthetic_kv *s = *synth;
    if (s == NULL) return;
    block_free(s->table);
    block_free(s->noise);
    block_free(s->bases);
    block_free(s->episodes);
    block_free(s->places);
    block_free(s);
    *synth = NULL;
}

struct kv_source synthetic_kv_source(struct synthetic_kv *synth)
{
    return (struct kv_source){
        .shape = synth->shape,
        .places = synth->places,
        .n_steps = synth->n_steps,
        .self = synth,
        .rows = make_rows,
        .queries = make_queries,
    };
}
