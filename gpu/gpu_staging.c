// The ring of pinned memory. A stage is used again when the event behind its last copy has passed,
// so the host fills one while the device empties the others.

#include "gpu/gpu_staging.h"

#include <string.h>

#include "gpu/gpu_error.h"

// A row of weights must fit.
enum { STAGE_BYTES_MIN = 256 << 10, STAGE_ALIGN_BYTES = 256 };

static uint8_t *stage_at(const struct gpu_staging *staging, uint32_t i)
{
    return staging->pinned + i * staging->stage_bytes;
}

fathom_status gpu_staging_open(struct gpu_staging *staging, struct pool *pool, size_t bytes)
{
    cudaError_t error = cudaErrorMemoryAllocation;
    void *pinned = NULL;
    size_t stage_bytes = bytes / GPU_STAGES / STAGE_ALIGN_BYTES * STAGE_ALIGN_BYTES;
    while (error == cudaErrorMemoryAllocation && stage_bytes >= STAGE_BYTES_MIN) {
        error = cudaMallocHost(&pinned, GPU_STAGES * stage_bytes);
        staging->stage_bytes = stage_bytes;
        stage_bytes = stage_bytes / 2 / STAGE_ALIGN_BYTES * STAGE_ALIGN_BYTES;
    }
    (void)cudaGetLastError();
    if (error == cudaErrorMemoryAllocation)
        return status_set(FATHOM_ENOMEM,
                          "cannot pin %d KiB of memory for copies to the GPU: raise the limit of "
                          "locked memory (ulimit -l)",
                          GPU_STAGES * STAGE_BYTES_MIN >> 10);
    FATHOM_TRY(gpu_status(error, "cudaMallocHost"));
    staging->pinned = pinned;
    staging->pool = pool;
    for (uint32_t i = 0; i < GPU_STAGES; i++)
        GPU_TRY(cudaEventCreateWithFlags, &staging->free[i], cudaEventDisableTiming);
    return FATHOM_OK;
}

void gpu_staging_close(struct gpu_staging *staging)
{
    for (uint32_t i = 0; i < GPU_STAGES; i++)
        if (staging->free[i] != NULL) cudaEventDestroy(staging->free[i]);
    if (staging->pinned != NULL) cudaFreeHost(staging->pinned);
    *staging = (struct gpu_staging){0};
}

fathom_status gpu_staging_begin(struct gpu_staging *staging, void **stage)
{
    GPU_TRY(cudaEventSynchronize, staging->free[staging->next]);
    *stage = stage_at(staging, staging->next);
    return FATHOM_OK;
}

// The event behind a copy that has been queued; the next stage's turn comes. Without the event
// nothing would tell when the stage is free again: then it is at once.
static fathom_status mark(struct gpu_staging *staging, cudaStream_t stream)
{
    const fathom_status status =
        gpu_status(cudaEventRecord(staging->free[staging->next], stream), "cudaEventRecord");
    if (status < 0) {
        (void)cudaStreamSynchronize(stream);
        return status;
    }
    staging->next = (staging->next + 1) % GPU_STAGES;
    return FATHOM_OK;
}

fathom_status gpu_staging_send(struct gpu_staging *staging, cudaStream_t stream, void *dev,
                               size_t bytes)
{
    GPU_TRY(cudaMemcpyAsync, dev, stage_at(staging, staging->next), bytes, cudaMemcpyHostToDevice,
            stream);
    return mark(staging, stream);
}

enum { PIECE_BYTES = 256 << 10 }; // of a stage, for a thread

struct copy_share {
    uint8_t *to;
    const uint8_t *from;
    size_t bytes;
};

static void copy_range(void *arg, size_t begin, size_t end, uint32_t thread)
{
    const struct copy_share *s = arg;
    const size_t at = begin * PIECE_BYTES;
    (void)thread;
    memcpy(s->to + at, s->from + at,
           end * PIECE_BYTES < s->bytes ? (end - begin) * PIECE_BYTES : s->bytes - at);
}

fathom_status gpu_staging_upload(struct gpu_staging *staging, cudaStream_t stream, void *dev,
                                 const void *host, size_t bytes)
{
    for (size_t done = 0, n; done < bytes; done += n) {
        void *stage;
        n = bytes - done < staging->stage_bytes ? bytes - done : staging->stage_bytes;
        FATHOM_TRY(gpu_staging_begin(staging, &stage));
        struct copy_share share = {stage, (const uint8_t *)host + done, n};
        pool_for(staging->pool, (n + PIECE_BYTES - 1) / PIECE_BYTES, 1, copy_range, &share);
        FATHOM_TRY(gpu_staging_send(staging, stream, (uint8_t *)dev + done, n));
    }
    return FATHOM_OK;
}

fathom_status gpu_staging_download(struct gpu_staging *staging, cudaStream_t stream, void *host,
                                   const void *dev, size_t bytes)
{
    size_t asked = 0;
    uint32_t oldest = staging->next, n_under_way = 0;
    for (size_t done = 0, n; done < bytes; done += n) {
        while (asked < bytes && n_under_way < GPU_STAGES) {
            void *stage;
            n = bytes - asked < staging->stage_bytes ? bytes - asked : staging->stage_bytes;
            FATHOM_TRY(gpu_staging_begin(staging, &stage));
            GPU_TRY(cudaMemcpyAsync, stage, (const uint8_t *)dev + asked, n, cudaMemcpyDeviceToHost,
                    stream);
            FATHOM_TRY(mark(staging, stream));
            asked += n;
            n_under_way++;
        }
        n = bytes - done < staging->stage_bytes ? bytes - done : staging->stage_bytes;
        GPU_TRY(cudaEventSynchronize, staging->free[oldest]);
        memcpy((uint8_t *)host + done, stage_at(staging, oldest), n);
        oldest = (oldest + 1) % GPU_STAGES;
        n_under_way--;
    }
    return FATHOM_OK;
}
