// Steps that come again, as CUDA graphs.

#include "gpu/gpu_step.h"

#include <string.h>

#include "gpu/attend_cuda.h"
#include "gpu/gpu_private.h"
#include "src/base/log.h"
#include "src/base/mem.h"

// ---- One operation ------------------------------------------------------------------------------

// Operations are compared byte by byte, so what lies between the members of their arguments is made
// zero where the compiler can; elsewhere it may cost a graph, and nothing else.
#if defined __has_builtin
#    if __has_builtin(__builtin_clear_padding)
#        define CLEAR_PADDING(ARGS) __builtin_clear_padding(ARGS)
#    endif
#endif
#ifndef CLEAR_PADDING
#    define CLEAR_PADDING(ARGS) (void)(ARGS)
#endif

static void copy_op(struct gpu_op *to, const struct gpu_op *op)
{
#define COPY(MEMBER)                                                                               \
    do {                                                                                           \
        memcpy(&to->args.MEMBER, &op->args.MEMBER, sizeof to->args.MEMBER);                        \
        CLEAR_PADDING(&to->args.MEMBER);                                                           \
    } while (0)
    memset(to, 0, sizeof *to);
    to->kind = op->kind;
    switch (op->kind) {
    case GPU_STORE_ROWS:
        COPY(store_rows);
        return;
    case GPU_ATTEND:
        COPY(attend);
        return;
    case GPU_MATMUL:
        COPY(matmul);
        return;
    case GPU_RMSNORM:
        COPY(rmsnorm);
        return;
    case GPU_SWIGLU:
        COPY(swiglu);
        return;
    }
#undef COPY
}

// What may differ from step to step.
static uint32_t *varying(struct gpu_op *op)
{
    if (op->kind == GPU_STORE_ROWS) return &op->args.store_rows.row;
    return op->kind == GPU_ATTEND ? &op->args.attend.n_keys : NULL;
}

// dev_varies: where that is on the device; NULL: it is in the operation.
static fathom_status run(struct gpu_device *gpu, const struct gpu_op *op,
                         const uint32_t *dev_varies)
{
    static const char *const names[] = {
        [GPU_STORE_ROWS] = "store rows", [GPU_ATTEND] = "attend", [GPU_MATMUL] = "matmul",
        [GPU_RMSNORM] = "rmsnorm",       [GPU_SWIGLU] = "swiglu",
    };
    const struct gpu_swiglu_args *swiglu = &op->args.swiglu;
    GPU_RANGE(names[op->kind]);
    switch (op->kind) {
    case GPU_STORE_ROWS:
        GPU_TRY(store_rows_cuda, &op->args.store_rows, dev_varies, gpu->stream);
        return FATHOM_OK;
    case GPU_ATTEND: // scratch was sized for the most that it needs
        GPU_TRY(attend_dense_cuda, &op->args.attend, dev_varies, gpu->n_sms, gpu->dev_scratch,
                gpu->stream);
        return FATHOM_OK;
    case GPU_MATMUL:
        return gpu_matmul_decode(gpu, &op->args.matmul);
    case GPU_RMSNORM:
        GPU_TRY(rmsnorm_cuda, &op->args.rmsnorm, gpu->stream);
        return FATHOM_OK;
    case GPU_SWIGLU:
        GPU_TRY(swiglu_cuda, swiglu->gate, swiglu->up, swiglu->out, swiglu->n, gpu->stream);
        return FATHOM_OK;
    }
    return FATHOM_OK;
}

// ---- Many ---------------------------------------------------------------------------------------

static fathom_status run_kept(struct gpu_device *gpu, uint32_t n)
{
    struct gpu_step *step = &gpu->step;
    for (uint32_t i = 0; i < n; i++) {
        struct gpu_op op = step->ops[i];
        if (varying(&op) != NULL) *varying(&op) = step->varies[i];
        FATHOM_TRY(run(gpu, &op, NULL));
    }
    return FATHOM_OK;
}

static fathom_status capture(struct gpu_device *gpu, uint32_t n, cudaGraph_t *graph)
{
    struct gpu_step *step = &gpu->step;
    fathom_status status = FATHOM_OK;
    GPU_TRY(cudaStreamBeginCapture, gpu->stream, cudaStreamCaptureModeThreadLocal);
    for (uint32_t i = 0; i < n && status >= 0; i++)
        status =
            run(gpu, &step->ops[i], varying(&step->ops[i]) == NULL ? NULL : step->dev_varies + i);
    const cudaError_t ended = cudaStreamEndCapture(gpu->stream, graph);
    return status < 0 ? status : gpu_status(ended, "cudaStreamEndCapture");
}

// Without a graph, steps are launched operation by operation, as the first ones are. Another thread
// that waits for the whole GPU spoils a recording, so a failure is not the last word.
static void record(struct gpu_device *gpu, uint32_t n)
{
    struct gpu_step *step = &gpu->step;
    cudaGraph_t graph = NULL;
    fathom_status status = capture(gpu, n, &graph);
    if (status >= 0)
        status = gpu_status(cudaGraphInstantiate(&step->exec, graph, 0), "cudaGraphInstantiate");
    if (graph != NULL) (void)cudaGraphDestroy(graph);
    if (status >= 0) {
        step->n_failed = 0;
        return;
    }
    (void)cudaGetLastError();
    step->exec = NULL;
    step->n_before = 0;
    step->n_failed++;
    log_write(&gpu->base.log, FATHOM_LOG_WARN, "%s: decoding goes on without a CUDA graph%s: %s",
              gpu->base.text, step->n_failed < GPU_STEP_TRIES ? ", and tries again" : ", slower",
              fathom_last_error());
}

static fathom_status launch(struct gpu_device *gpu, uint32_t n)
{
    struct gpu_step *step = &gpu->step;
    GPU_RANGE("step");
    FATHOM_TRY(gpu_staging_upload(&gpu->staging, gpu->stream, step->dev_varies, step->varies,
                                  n * sizeof *step->varies));
    GPU_TRY(cudaGraphLaunch, step->exec, gpu->stream);
    return FATHOM_OK;
}

// What comes a second time is expected to come again, and recorded; what sequences that take turns
// ask for is not.
fathom_status gpu_step_flush(struct gpu_device *gpu)
{
    struct gpu_step *step = &gpu->step;
    const uint32_t n = step->n_ops;
    if (n == 0) return FATHOM_OK;
    step->n_ops = 0;
    if (n == step->n_before && memcmp(step->ops, step->before, n * sizeof *step->ops) == 0) {
        if (step->exec == NULL && step->n_failed < GPU_STEP_TRIES) record(gpu, n);
        return step->exec != NULL ? launch(gpu, n) : run_kept(gpu, n);
    }
    gpu_step_forget(gpu);
    memcpy(step->before, step->ops, n * sizeof *step->ops);
    step->n_before = n;
    return run_kept(gpu, n);
}

void gpu_step_forget(struct gpu_device *gpu)
{
    struct gpu_step *step = &gpu->step;
    if (step->exec != NULL) (void)cudaGraphExecDestroy(step->exec); // CUDA lets it end
    step->exec = NULL;
    step->n_before = 0;
}

fathom_status gpu_step_do(struct gpu_device *gpu, const struct gpu_op *op)
{
    struct gpu_step *step = &gpu->step;
    if (!step->is_open || step->n_ops == GPU_STEP_OPS_MAX) {
        FATHOM_TRY(gpu_enter(gpu));
        return run(gpu, op, NULL);
    }
    struct gpu_op *kept = &step->ops[step->n_ops];
    copy_op(kept, op);
    uint32_t *varies = varying(kept);
    if (varies != NULL) {
        step->varies[step->n_ops] = *varies;
        // A number of keys gives way to its reach, by which alone a launch depends on it.
        *varies = op->kind == GPU_ATTEND ? attend_reach_cuda(&op->args.attend) : 0;
    }
    step->n_ops++;
    return FATHOM_OK;
}

// ---- Life ---------------------------------------------------------------------------------------

fathom_status gpu_step_open(struct gpu_device *gpu)
{
    struct gpu_step *step = &gpu->step;
    void *dev;
    FATHOM_TRY(mem_new(GPU_STEP_OPS_MAX, sizeof *step->ops, "operations", &step->ops));
    FATHOM_TRY(mem_new(GPU_STEP_OPS_MAX, sizeof *step->before, "operations", &step->before));
    FATHOM_TRY(mem_new(GPU_STEP_OPS_MAX, sizeof *step->varies, "operations", &step->varies));
    FATHOM_TRY(gpu_take_own(GPU_STEP_OPS_MAX * sizeof *step->varies, "operations", &dev));
    step->dev_varies = dev;
    return FATHOM_OK;
}

void gpu_step_close(struct gpu_device *gpu)
{
    struct gpu_step *step = &gpu->step;
    gpu_step_forget(gpu);
    (void)cudaFree(step->dev_varies);
    mem_free(step->varies);
    mem_free(step->before);
    mem_free(step->ops);
}

void gpu_step_begin(fathom_device *device)
{
    struct gpu_step *step = &((struct gpu_device *)device)->step;
    step->is_open = true;
    step->n_ops = 0;
}

void gpu_step_end(fathom_device *device)
{
    struct gpu_step *step = &((struct gpu_device *)device)->step;
    step->is_open = false;
    step->n_ops = 0;
}
