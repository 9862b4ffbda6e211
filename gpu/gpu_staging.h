// Copies between the host's memory and the device's, through a small ring of pinned memory: what a
// user may pin is scarce, and copies of memory that is not pinned wait for one another.

#ifndef FATHOM_GPU_GPU_STAGING_H
#define FATHOM_GPU_GPU_STAGING_H

#include <cuda_runtime_api.h>

#include "src/base/pool.h"
#include "src/base/status.h"

enum { GPU_STAGES = 4 };

struct gpu_staging {
    struct pool *pool;            // whose threads fill a stage
    uint8_t *pinned;              // [GPU_STAGES][stage_bytes]
    size_t stage_bytes;           // of one
    cudaEvent_t free[GPU_STAGES]; // when the copy that uses it is done
    uint32_t next;                // to be used
};

// Pins at most `bytes`, or as much of that as the system lets it. *staging is zero before; close it
// whatever comes back.
FATHOM_MUST_USE fathom_status gpu_staging_open(struct gpu_staging *staging, struct pool *pool,
                                               size_t bytes);
// Nothing of it may be under way.
void gpu_staging_close(struct gpu_staging *staging);

// Queues a copy of `host`, which is free again on return.
FATHOM_MUST_USE fathom_status gpu_staging_upload(struct gpu_staging *staging, cudaStream_t stream,
                                                 void *dev, const void *host, size_t bytes);
// Waits for what the stream was given, and copies.
FATHOM_MUST_USE fathom_status gpu_staging_download(struct gpu_staging *staging, cudaStream_t stream,
                                                   void *host, const void *dev, size_t bytes);

// For who fills a stage itself: a piece of pinned memory of stage_bytes that no copy uses.
FATHOM_MUST_USE fathom_status gpu_staging_begin(struct gpu_staging *staging, void **stage);
// Queues the copy of its first bytes.
FATHOM_MUST_USE fathom_status gpu_staging_send(struct gpu_staging *staging, cudaStream_t stream,
                                               void *dev, size_t bytes);

#endif
