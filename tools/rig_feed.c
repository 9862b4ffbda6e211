// Feeding the sequence of a rig.

#include "tools/block.h"
#include "tools/interrupt.h"
#include "tools/output.h"
#include "tools/rig.h"
#include "tools/say.h"

enum { ROWS_BYTES_MAX = 256 << 20 };

// Tokens of the next pass. Where prompts are read sparsely the last pass is not a full one, whose
// tokens would share picks.
static uint32_t next_batch(const struct rig *rig, size_t n_left)
{
    const size_t n_full = rig->n_batch;
    const struct fathom_kv_params *kv = fathom_engine_kv(fathom_runner_engine(rig->runner));
    size_t n = n_left < n_full ? n_left : n_full;
    if (kv->prefill == FATHOM_PREFILL_SPARSE && n_full > 1 && n_left >= n_full &&
        n_left < 2 * n_full - 1)
        n = n_left - (n_full - 1);
    return (uint32_t)n;
}

// In batches; the last one's logits go to rig->logits or, with a sampler, its pick to *next_id.
static int feed_batches(struct rig *rig, const int32_t *ids, size_t n_ids,
                        struct progress *progress, fathom_sampler *sampler, int32_t *next_id)
{
    for (size_t i = 0; i < n_ids;) {
        const uint32_t n = next_batch(rig, n_ids - i);
        const bool is_last = i + n == n_ids;
        if (is_last && sampler != NULL)
            SAY_TRY(say_status(
                fathom_runner_feed_pick(rig->runner, rig->seq, ids + i, n, sampler, next_id)));
        else
            SAY_TRY(say_status(fathom_runner_feed(rig->runner, rig->seq, ids + i, n,
                                                  is_last ? rig->logits : NULL, NULL)));
        i += n;
        progress_add(progress, n);
        if (interrupt_seen()) return EXIT_INTERRUPTED;
    }
    return EXIT_GOOD;
}

int rig_feed(struct rig *rig, const int32_t *ids, size_t n_ids, struct progress *progress)
{
    return feed_batches(rig, ids, n_ids, progress, NULL, NULL);
}

int rig_feed_pick(struct rig *rig, const int32_t *ids, size_t n_ids, struct progress *progress,
                  fathom_sampler *sampler, int32_t *next_id)
{
    return feed_batches(rig, ids, n_ids, progress, sampler, next_id);
}

float *rig_rows_new(const struct rig *rig, uint32_t *n_rows)
{
    size_t row_bytes = rig->info->n_vocab * sizeof(float);
    size_t n = ROWS_BYTES_MAX / row_bytes;
    *n_rows = n < 1 ? 1 : n < rig->n_batch ? (uint32_t)n : rig->n_batch;
    return block_new(*n_rows, row_bytes);
}

int rig_feed_rows(struct rig *rig, const int32_t *ids, uint32_t n_ids, float *rows)
{
    SAY_TRY(say_status(fathom_runner_feed(rig->runner, rig->seq, ids, n_ids, NULL, rows)));
    return interrupt_seen() ? EXIT_INTERRUPTED : EXIT_GOOD;
}

int rig_truncate(struct rig *rig, size_t n_keep)
{
    fathom_engine *engine = fathom_runner_engine(rig->runner);
    return say_status(fathom_seq_truncate(engine, rig->seq, (uint32_t)n_keep));
}
