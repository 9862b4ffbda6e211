// Both passes go over the same cache: what it has lost in storing rows, or in reading the prompt
// sparsely, is not part of the divergence. What earlier tokens of the answer lost is.

#include "tools/needle_kl.h"

#include <math.h>
#include <string.h>

#include "tools/block.h"
#include "tools/divergence.h"
#include "tools/say.h"

enum { TOKENS_MAX = 64 }; // of an answer: rows of logits are kept for each

// Keeps the first n_keep ids in the sequence and feeds the others one by one; logits [n, n_vocab].
static int feed_each(struct rig *rig, size_t n_keep, const struct ids *ids, float *logits)
{
    const size_t n_vocab = rig->info->n_vocab;
    SAY_TRY(rig_truncate(rig, n_keep));
    for (size_t i = 0; i < ids->n; i++) {
        SAY_TRY(rig_feed(rig, &ids->data[i], 1, NULL));
        memcpy(logits + i * n_vocab, rig->logits, n_vocab * sizeof *logits);
    }
    return EXIT_GOOD;
}

static double divergence_of(const float *exact, const float *picked, uint32_t n)
{
    uint32_t top;
    const double exact_sum = divergence_log_sum(exact, n, &top);
    const double picked_sum = divergence_log_sum(picked, n, &top);
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        const double log_p = (double)exact[i] - exact_sum;
        sum += exp(log_p) * (log_p - ((double)picked[i] - picked_sum));
    }
    return sum;
}

static int compare(struct needle_kl *kl, struct rig *rig, size_t n_keep, const struct ids *ids)
{
    const uint32_t n_vocab = rig->info->n_vocab;
    fathom_engine *engine = fathom_runner_engine(rig->runner);
    float *exact = block_new(2 * ids->n * n_vocab, sizeof *exact);
    if (exact == NULL) return EXIT_BAD;
    float *picked = exact + ids->n * n_vocab;
    int code = EXIT_GOOD;
    SAY_CHECK(say_status(fathom_engine_set_exact(engine, true)), out);
    SAY_CHECK(feed_each(rig, n_keep, ids, exact), out);
    SAY_CHECK(say_status(fathom_engine_set_exact(engine, false)), out);
    SAY_CHECK(feed_each(rig, n_keep, ids, picked), out);
    for (size_t i = 0; i < ids->n; i++)
        kl->sum += divergence_of(exact + i * n_vocab, picked + i * n_vocab, n_vocab);
    kl->n += ids->n;
out:
    block_free(exact);
    return code;
}

int needle_kl_add(struct needle_kl *kl, struct rig *rig, const struct ids *asked,
                  const char *answer)
{
    struct ids ids = {0}; // each predicts a token of the answer
    int code = EXIT_GOOD;
    const size_t n_keep = asked->n - 1;
    SAY_CHECK(ids_append(&ids, asked->data + n_keep, 1), out);
    SAY_CHECK(ids_append_text(&ids, rig->model, answer, strlen(answer), 0), out);
    ids.n = ids.n - 1 < TOKENS_MAX ? ids.n - 1 : TOKENS_MAX;
    code = compare(kl, rig, n_keep, &ids);
out:
    ids_free(&ids);
    return code;
}
