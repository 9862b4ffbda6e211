// The CUDA device's work on cached rows.

#include "gpu/attend_cuda.h"
#include "gpu/gpu_private.h"

fathom_status gpu_attend_store_rows(fathom_device *device, const struct store_rows_args *args)
{
    const struct gpu_device *gpu = (const struct gpu_device *)device;
    GPU_RANGE("store rows");
    FATHOM_TRY(gpu_enter(gpu));
    GPU_TRY(store_rows_cuda, args, gpu->stream);
    return FATHOM_OK;
}

fathom_status gpu_attend_dense(fathom_device *device, const struct dense_attend_args *args)
{
    const struct gpu_device *gpu = (const struct gpu_device *)device;
    GPU_RANGE("attend");
    FATHOM_TRY(gpu_enter(gpu));
    // Scratch was sized for the most that it needs.
    GPU_TRY(attend_dense_cuda, args, gpu->n_sms, gpu->dev_scratch, gpu->stream);
    return FATHOM_OK;
}
