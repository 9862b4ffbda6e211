// Feeding the sequence of a rig.

#include "tools/block.h"
#include "tools/interrupt.h"
#include "tools/output.h"
#include "tools/rig.h"
#include "tools/say.h"

enum { ROWS_BYTES_MAX = 256 << 20 };

// In batches; the last one's logits go to rig->logits or, with a sampler, its pick to *next_id.
static int feed_batches(struct rig *rig, const int32_t *ids, size_t n_ids,
                        struct progress *progress, fathom_sampler *sampler, int32_t *next_id)
{
    for (size_t i = 0; i < n_ids;) {
        const uint32_t n = n_ids - i < rig->n_batch ? (uint32_t)(n_ids - i) : rig->n_batch;
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
