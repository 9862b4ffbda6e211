// Takes problems of attention over runs to the device and back. Runs are laid out anew there: as
// little aligned as they may be, with 0xff, which is NaN in all plain types, between them; the last
// ends where the memory does.

#include "tests/gpu/k_runs_cuda.h"

#include "tests/gpu/gpu_rig.h"

#include <string.h>

#include "gpu/runs_cuda.h"
#include "src/base/mem.h"

static size_t alignment(size_t row_bytes)
{
    size_t align = 1;
    while (align < 16 && row_bytes % (2 * align) == 0)
        align *= 2;
    return align;
}

// The rows of one run to a place behind `at`, with NULL for memory only the end of them.
static size_t put_run(char *memory, size_t at, size_t row_bytes, const void *rows, uint32_t n_rows,
                      const void **place)
{
    const size_t align = alignment(row_bytes);
    at = (at + align - 1) / align * align + align * (at / 7 % 5); // some gap or other
    if (memory != NULL) {
        memcpy(memory + at, rows, n_rows * row_bytes);
        *place = memory + at;
    }
    return at + n_rows * row_bytes;
}

// What a head has on the device.
struct dev_memory {
    char *k, *v;
    struct run_cuda *runs;
    float *k_min, *k_step;
};

// Runs of the head, at places in the host's memory, if there is some.
static uint32_t lay_runs(const struct runs_problem *p, bool is_single, char *k, char *v,
                         struct run_cuda *runs, size_t *k_bytes, size_t *v_bytes)
{
    const size_t k_row = kv_k_row_bytes(&p->args.format), v_row = kv_v_row_bytes(&p->args.format);
    uint32_t n_runs = 0, n_rows = 0;
    *k_bytes = *v_bytes = 0;
    for (uint32_t r = 0; r < p->args.n_runs; r++) {
        const struct kv_run *run = &p->args.runs[r];
        const uint32_t step = is_single ? 1 : run->n_rows;
        for (uint32_t j = 0; j < run->n_rows; j += step) {
            struct run_cuda *to = &runs[n_runs++];
            to->begin = n_rows;
            to->n_rows = step;
            n_rows += step;
            *k_bytes =
                put_run(k, *k_bytes, k_row, (const char *)run->k + j * k_row, step, &to->dev_k);
            *v_bytes =
                put_run(v, *v_bytes, v_row, (const char *)run->v + j * v_row, step, &to->dev_v);
        }
    }
    return n_runs;
}

static struct runs_head_cuda put_head(const struct runs_problem *p, bool is_single,
                                      struct dev_memory *dev)
{
    struct run_cuda *runs;
    char *k, *v;
    size_t k_bytes, v_bytes;
    *dev = (struct dev_memory){0};
    if (p->args.n_runs == 0) return (struct runs_head_cuda){0};
    check_ok(mem_new(p->n_rows, sizeof *runs, "runs", &runs));
    lay_runs(p, is_single, NULL, NULL, runs, &k_bytes, &v_bytes);
    check_ok(mem_new(k_bytes, 1, "K rows", &k));
    check_ok(mem_new(v_bytes, 1, "V rows", &v));
    memset(k, 0xff, k_bytes);
    memset(v, 0xff, v_bytes);
    const uint32_t n_runs = lay_runs(p, is_single, k, v, runs, &k_bytes, &v_bytes);
    dev->k = gpu_put(k, k_bytes);
    dev->v = gpu_put(v, v_bytes);
    for (uint32_t r = 0; r < n_runs; r++) {
        runs[r].dev_k = dev->k + ((const char *)runs[r].dev_k - k);
        runs[r].dev_v = dev->v + ((const char *)runs[r].dev_v - v);
    }
    dev->runs = gpu_put(runs, n_runs * sizeof *runs);
    if (p->args.format.bits != 0) {
        dev->k_min = gpu_put(p->k_min, p->args.format.d_k * sizeof(float));
        dev->k_step = gpu_put(p->k_step, p->args.format.d_k * sizeof(float));
    }
    mem_free(runs);
    mem_free(k);
    mem_free(v);
    return (struct runs_head_cuda){dev->runs, n_runs, dev->k_min, dev->k_step};
}

static void free_head(struct dev_memory *dev)
{
    void *blocks[] = {dev->k, dev->v, dev->runs, dev->k_min, dev->k_step};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        gpu_ok(cudaFree(blocks[i]));
}

// Copies `width` numbers of each token and head between the device's order and the problems'.
static void copy_tokens(struct runs_heads *p, float *packed, uint32_t width, int what)
{
    const struct attend_runs_args *first = &p->heads[0].args;
    for (uint32_t t = 0; t < first->n_tokens; t++)
        for (uint32_t h = 0; h < p->n_heads; h++, packed += width) {
            const struct attend_runs_args *a = &p->heads[h].args;
            const size_t bytes = width * sizeof(float);
            if (what == 'q') memcpy(packed, a->q + t * a->q_stride, bytes);
            if (what == 'o') memcpy(packed, a->o + t * a->o_stride, bytes);
            if (what == 'l') memcpy(packed, a->lse + t * a->lse_stride, bytes);
            if (what == 'O') memcpy(a->o + t * a->o_stride, packed, bytes);
            if (what == 'L') memcpy(a->lse + t * a->lse_stride, packed, bytes);
        }
}

// What the heads have of it, in the device's memory.
static float *put_tokens(struct runs_heads *p, uint32_t width, int what)
{
    const size_t n = (size_t)p->heads[0].args.n_tokens * p->n_heads * width;
    float *packed;
    check_ok(mem_new(n, sizeof *packed, "tokens", &packed));
    copy_tokens(p, packed, width, what);
    float *dev = gpu_put(packed, n * sizeof *packed);
    mem_free(packed);
    return dev;
}

static void take_tokens(struct runs_heads *p, float *dev, uint32_t width, int what)
{
    const size_t n = (size_t)p->heads[0].args.n_tokens * p->n_heads * width;
    float *packed;
    check_ok(mem_new(n, sizeof *packed, "tokens", &packed));
    gpu_take(packed, dev, n * sizeof *packed);
    copy_tokens(p, packed, width, what);
    mem_free(packed);
}

void runs_device(struct runs_heads *p)
{
    const struct attend_runs_args *a = &p->heads[0].args;
    struct dev_memory memory[HEADS_MAX];
    struct runs_head_cuda heads[HEADS_MAX];
    struct runs_args_cuda args = {.n_tokens = a->n_tokens,
                                  .n_kv_heads = p->n_heads,
                                  .group = a->group,
                                  .format = a->format,
                                  .scale = a->scale,
                                  .accumulate = a->accumulate};
    for (uint32_t h = 0; h < p->n_heads; h++) {
        struct runs_problem *head = &p->heads[h];
        memcpy(head->o, head->o_before, head->o_count * sizeof *head->o);
        memcpy(head->lse, head->lse_before, head->lse_count * sizeof *head->lse);
        heads[h] = put_head(head, p->is_single, &memory[h]);
        if (head->args.n_runs != 0 && head->n_rows > args.n_rows) args.n_rows = head->n_rows;
    }
    const uint32_t d_k = a->group * a->format.d_k, d_v = a->group * a->format.d_v;
    struct runs_head_cuda *dev_heads = gpu_put(heads, p->n_heads * sizeof heads[0]);
    float *dev_q = put_tokens(p, d_k, 'q');
    args.dev_heads = dev_heads;
    args.dev_q = dev_q;
    args.dev_o = put_tokens(p, d_v, 'o');
    args.dev_lse = put_tokens(p, a->group, 'l');
    const size_t scratch_bytes = attend_runs_cuda_bytes(&args, p->n_sms);
    void *dev_scratch = scratch_bytes == 0 ? NULL : gpu_new(scratch_bytes);
    gpu_ok(attend_runs_cuda(&args, p->n_sms, dev_scratch, NULL));
    take_tokens(p, args.dev_o, d_v, 'O');
    take_tokens(p, args.dev_lse, a->group, 'L');
    for (uint32_t h = 0; h < p->n_heads; h++)
        free_head(&memory[h]);
    gpu_ok(cudaFree(dev_heads));
    gpu_ok(cudaFree(dev_q));
    gpu_ok(cudaFree(dev_scratch));
}
