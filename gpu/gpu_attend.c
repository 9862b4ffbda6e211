// The CUDA device's work on cached rows.

#include "gpu/gpu_private.h"

fathom_status gpu_attend_store_rows(fathom_device *device, const struct store_rows_args *args)
{
    const struct gpu_op op = {.kind = GPU_STORE_ROWS, .args.store_rows = *args};
    return gpu_step_do((struct gpu_device *)device, &op);
}

fathom_status gpu_attend_dense(fathom_device *device, const struct dense_attend_args *args)
{
    const struct gpu_op op = {.kind = GPU_ATTEND, .args.attend = *args};
    return gpu_step_do((struct gpu_device *)device, &op);
}
