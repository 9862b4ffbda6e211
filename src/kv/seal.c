// Sealing and merging: hot rows become small segments, small segments become merged ones.
//
// The work is cut by heads (a layer and a KV head) and paid for by tokens: each token that comes in
// pays for a few times as many heads as keep sealing in step with it, since rows that wait to be
// sealed are attended to by every token. So no step carries more than its share, no thread runs
// behind the caller's back, and the same tokens give the same bits. Until a job has
// done its last head nothing of it shows; rows that are being sealed are attended to in the tail.

#include "src/kv/build.h"

#include <stdio.h>

#include "src/base/clock.h"
#include "src/base/status.h"

static uint32_t n_small_of_merged(const fathom_engine *engine)
{
    return engine->params.kv.n_merged / engine->params.kv.n_segment;
}

// ---- Spilling -----------------------------------------------------------------------------------

// The merged segment in RAM that is read least and that no job is at work on; NULL if there is
// none.
static struct segment *find_coldest(fathom_engine *engine)
{
    struct segments *segments = &engine->segments;
    struct segment *coldest = NULL;
    for (uint32_t i = 0; i < segments->n_all; i++) {
        struct segment *s = &segments->all[i];
        if (s->refs == 0 || s->size != SEGMENT_MERGED || s->rows_place == SLAB_NONE || s->busy)
            continue;
        if (coldest == NULL || s->heat < coldest->heat) coldest = s;
        s->heat /= 2;
    }
    return coldest;
}

static void unwrite(struct segments *segments, struct segment *victim, uint32_t n_heads)
{
    for (uint32_t head = 0; head < n_heads; head++)
        segments->store_ops->release(segments->store, victim->extents[head]);
}

// Writes heads first .. end - 1. After an error the victim stays in RAM, and no more is written.
static bool write_heads(fathom_engine *engine, struct segment *victim, uint32_t first, uint32_t end)
{
    struct segments *segments = &engine->segments;
    const uint32_t n_pages =
        (uint32_t)(segment_class(segments, victim)->head_bytes / STORE_PAGE_BYTES);
    for (uint32_t head = first; head < end; head++) {
        if (segments->store_ops->write(segments->store, segment_rows(segments, victim, head),
                                       n_pages, &victim->extents[head]) >= 0)
            continue;
        unwrite(segments, victim, head);
        segments->store_failed = true;
        (void)snprintf(segments->store_error, sizeof segments->store_error, "%s",
                       fathom_last_error());
        log_write(&engine->device->log, FATHOM_LOG_WARN,
                  "nothing more goes to disk, and the cache goes on until RAM is full: %s",
                  segments->store_error);
        return false;
    }
    return true;
}

static void leave_ram(fathom_engine *engine, struct segment *victim)
{
    slab_give(&engine->segments.classes[SEGMENT_MERGED].rows, victim->rows_place);
    victim->rows_place = SLAB_NONE;
}

static bool can_spill(const fathom_engine *engine)
{
    return engine->segments.store != NULL && !engine->segments.store_failed;
}

// ---- Jobs ---------------------------------------------------------------------------------------

static void give_up_victim(fathom_engine *engine, struct job *job)
{
    job->victim->busy = false;
    segment_drop(&engine->segments, job->victim);
    job->victim = NULL;
}

static void stop_job(fathom_engine *engine, struct job *job)
{
    if (job->target == NULL) return;
    if (job->victim != NULL) {
        unwrite(&engine->segments, job->victim, job->n_done);
        give_up_victim(engine, job);
    }
    segment_drop(&engine->segments, job->target);
    *job = (struct job){0};
}

void seal_cancel(fathom_engine *engine, struct slot *slot)
{
    stop_job(engine, &slot->seal);
    stop_job(engine, &slot->merge);
}

static bool begin_seal(fathom_engine *engine, struct slot *slot)
{
    const struct fathom_kv_params *kv = &engine->params.kv;
    if (slot->n_sealed == engine->n_sealed_max) return false;
    slot->seal.target = segment_new(&engine->segments, SEGMENT_SMALL, kv->n_segment);
    if (slot->seal.target == NULL) return false;
    collapse_prepare(engine, slot, slot->sealed_end, true);
    return true;
}

static void finish_seal(fathom_engine *engine, struct slot *slot)
{
    const uint32_t begin = slot->sealed_end, end = begin + engine->params.kv.n_segment;
    slot->sealed[slot->n_sealed++] =
        (struct sealed){.segment = slot->seal.target, .begin = begin, .end = end};
    tail_slide(engine, slot, end);
    slot->sealed_end = end;
    slot->seal.target = NULL;
    slot->seal.n_done = 0;
}

// Small segments are always the newest ones.
static bool merge_is_due(const fathom_engine *engine, const struct slot *slot, uint32_t *first)
{
    const uint32_t n = n_small_of_merged(engine);
    uint32_t i = slot->n_sealed;
    while (i > 0 && slot->sealed[i - 1].segment->size == SEGMENT_SMALL)
        i--;
    *first = i;
    return slot->n_sealed - i >= n;
}

static bool begin_merge(fathom_engine *engine, struct slot *slot, uint32_t first)
{
    const struct slab *rows = &engine->segments.classes[SEGMENT_MERGED].rows;
    struct segment *victim = NULL;
    if (rows->n_free == 0 && can_spill(engine)) {
        victim = find_coldest(engine);
        if (victim != NULL && write_heads(engine, victim, 0, engine->segments.n_heads))
            leave_ram(engine, victim);
    }
    slot->merge = (struct job){.first = first, .credit = slot->merge.credit};
    slot->merge.target = segment_new(&engine->segments, SEGMENT_MERGED, engine->params.kv.n_merged);
    if (slot->merge.target == NULL) return false;
    slot->merge.target->busy = true;
    // A place is kept free for the next merge, by writing along with this one.
    if (rows->n_free == 0 && can_spill(engine)) slot->merge.victim = find_coldest(engine);
    if (slot->merge.victim != NULL) {
        segment_hold(slot->merge.victim);
        slot->merge.victim->busy = true;
    }
    return true;
}

static void finish_merge(fathom_engine *engine, struct slot *slot)
{
    const uint32_t first = slot->merge.first, n = n_small_of_merged(engine);
    struct sealed *at = slot->sealed + first;
    const struct sealed merged = {
        .segment = slot->merge.target, .begin = at[0].begin, .end = at[n - 1].end};
    for (uint32_t i = 0; i < n; i++)
        segment_drop(&engine->segments, at[i].segment);
    *at = merged;
    for (uint32_t i = first + n; i < slot->n_sealed; i++)
        slot->sealed[i - n + 1] = slot->sealed[i];
    slot->n_sealed -= n - 1;
    slot->merge.target->busy = false;
    if (slot->merge.victim != NULL) {
        leave_ram(engine, slot->merge.victim);
        give_up_victim(engine, &slot->merge);
    }
    slot->merge = (struct job){.credit = slot->merge.credit};
}

// ---- Paying -------------------------------------------------------------------------------------

// Builds as many heads as the credit pays for, in rounds that keep a few threads busy. On any
// number of threads the same: a head's units may depend on the samples that there are by then. True
// when the job is done.
static bool run_job(fathom_engine *engine, struct slot *slot, struct job *job, uint32_t head_price)
{
    enum { ROUND_HEADS = 4 };
    const uint32_t left = engine->segments.n_heads - job->n_done;
    const uint64_t paid = job->credit / head_price;
    if (paid < left && paid < ROUND_HEADS) return false;
    const uint32_t n = paid < left ? (uint32_t)paid : left;
    build_heads(engine, slot, job, job->n_done, n);
    if (job->victim != NULL && !write_heads(engine, job->victim, job->n_done, job->n_done + n))
        give_up_victim(engine, job);
    job->n_done += n;
    job->credit -= (uint64_t)n * head_price;
    return n == left;
}

static bool seal_is_due(const fathom_engine *engine, const struct slot *slot)
{
    const struct fathom_kv_params *kv = &engine->params.kv;
    if (slot->n_tokens < slot->sealed_end) return false;
    if (slot->n_sealed == 0 && slot->n_tokens <= engine->n_hot_max) return false;
    return slot->n_tokens - slot->sealed_end >= kv->n_window + kv->n_segment;
}

static void advance_seal(fathom_engine *engine, struct slot *slot)
{
    const uint64_t start_ns = clock_ns();
    while (slot->seal.target != NULL || (seal_is_due(engine, slot) && begin_seal(engine, slot))) {
        if (!run_job(engine, slot, &slot->seal, engine->params.kv.n_segment)) break;
        finish_seal(engine, slot);
    }
    if (slot->seal.target == NULL) slot->seal.credit = 0;
    engine->stats.seal_s += (double)(clock_ns() - start_ns) * 1e-9;
}

static void advance_merge(fathom_engine *engine, struct slot *slot)
{
    const uint64_t start_ns = clock_ns();
    uint32_t first;
    while (slot->merge.target != NULL ||
           (merge_is_due(engine, slot, &first) && begin_merge(engine, slot, first))) {
        if (!run_job(engine, slot, &slot->merge, engine->params.kv.n_merged)) break;
        finish_merge(engine, slot);
    }
    if (slot->merge.target == NULL) slot->merge.credit = 0;
    engine->stats.merge_s += (double)(clock_ns() - start_ns) * 1e-9;
}

void seal_advance(fathom_engine *engine, struct slot *slot, uint32_t n_new)
{
    enum { CATCH_UP = 4, SEAL_PACE = 4, MERGE_PACE = 2 };
    const struct fathom_kv_params *kv = &engine->params.kv;
    if (!engine->tiered) return;
    uint64_t pay = (uint64_t)n_new * engine->segments.n_heads;
    // A sequence that was long before it was first sealed catches up.
    if (slot->n_tokens > slot->sealed_end + kv->n_window + 2 * kv->n_segment) pay *= CATCH_UP;
    slot->seal.credit += SEAL_PACE * pay;
    advance_seal(engine, slot);
    slot->merge.credit += MERGE_PACE * pay;
    advance_merge(engine, slot);
}

static fathom_status say_full(const fathom_engine *engine, uint32_t n_new)
{
    const struct segments *segments = &engine->segments;
    const char *others = engine->params.n_seqs_max > 1 ? ", or free sequences" : "";
    if (segments->store_failed)
        return status_set(
            FATHOM_EFULL,
            "no room for %u more token%s: the hot arena and RAM are full: raise kv.host_bytes "
            "(--kv-ram)%s, or see to the disk, which takes no more: %s",
            n_new, n_new == 1 ? "" : "s", others, segments->store_error);
    return status_set(FATHOM_EFULL,
                      "no room for %u more token%s: the hot arena is full, and RAM%s cannot take "
                      "what leaves it; raise kv.host_bytes (--kv-ram) or kv.disk_bytes "
                      "(--kv-disk)%s",
                      n_new, n_new == 1 ? "" : "s", segments->store != NULL ? " and disk" : "",
                      others);
}

fathom_status seal_make_room(fathom_engine *engine, struct slot *slot, uint32_t n_new)
{
    if (!engine->tiered) return FATHOM_OK;
    while (tail_row(engine, slot, slot->n_tokens) + n_new > engine->n_tail_max) {
        const uint32_t sealed_end = slot->sealed_end;
        slot->seal.credit = (uint64_t)engine->params.kv.n_segment * engine->segments.n_heads;
        advance_seal(engine, slot);
        if (slot->sealed_end > sealed_end) continue;
        const uint32_t n_sealed = slot->n_sealed;
        slot->merge.credit = (uint64_t)engine->params.kv.n_merged * engine->segments.n_heads;
        advance_merge(engine, slot);
        if (slot->n_sealed >= n_sealed) return say_full(engine, n_new);
    }
    return FATHOM_OK;
}
