// What the kernels of attention over runs share: the job, and where rows lie.
//
// As in attend.cuh the rows of a KV head are taken in tiles, and its keys, which are the rows of
// all its runs in order, in parts.

#ifndef FATHOM_GPU_RUNS_CUH
#define FATHOM_GPU_RUNS_CUH

#include "gpu/attend.cuh"
#include "gpu/runs_cuda.h"

// Parameter of the kernels. Of job.a are set: dev_q, all numbers of heads, tokens and channels,
// kv_type and scale; there is no rotation, and all rows see all keys.
struct runs_job {
    attend_job job;
    const runs_head_cuda *dev_heads;
    uint32_t bits;
    uint32_t k_row_bytes;
    uint32_t v_row_bytes;
};

cudaError_t runs_plain(const runs_job &runs, cudaStream_t stream);
cudaError_t runs_decode(const runs_job &runs, cudaStream_t stream);

static __device__ __forceinline__ uint32_t count_keys(const runs_head_cuda &head)
{
    if (head.n_runs == 0) return 0;
    const run_cuda &last = head.dev_runs[head.n_runs - 1];
    return last.begin + last.n_rows;
}

// The keys of a part.
static __device__ __forceinline__ key_range run_keys(const runs_job &runs,
                                                     const runs_head_cuda &head, uint32_t part)
{
    const size_t n = count_keys(head), begin = static_cast<size_t>(part) * runs.job.parts.keys;
    const size_t end = begin + runs.job.parts.keys;
    return {static_cast<int>(begin < n ? begin : n), static_cast<int>(end < n ? end : n)};
}

// The last of the runs first .. last that begins at or before the key; the first of them does.
static __device__ __forceinline__ uint32_t find_run(const run_cuda *runs, uint32_t first,
                                                    uint32_t last, int key)
{
    while (first < last) {
        const uint32_t middle = first + (last - first + 1) / 2;
        if (runs[middle].begin <= static_cast<uint32_t>(key))
            first = middle;
        else
            last = middle - 1;
    }
    return first;
}

// Where a lane is in the runs of its head.
struct run_cursor {
    const run_cuda *runs;
    uint32_t last; // of them
    uint32_t at;
};

// The run with the key, which lies less than n_ahead keys behind the cursor's run, at most in the
// n_ahead-th run after it, since none is empty.
static __device__ __forceinline__ const run_cuda &move_cursor(run_cursor &cursor, int key,
                                                              uint32_t n_ahead)
{
    const uint32_t n_left = cursor.last - cursor.at;
    cursor.at = find_run(cursor.runs, cursor.at, cursor.at + min(n_ahead, n_left), key);
    return cursor.runs[cursor.at];
}

// A cursor at the key, of a head that has it.
static __device__ __forceinline__ run_cursor open_cursor(const runs_head_cuda &head, int key)
{
    return {head.dev_runs, head.n_runs - 1, find_run(head.dev_runs, 0, head.n_runs - 1, key)};
}

static __device__ __forceinline__ const char *run_row(const run_cuda &run, const void *rows,
                                                      int key, uint32_t row_bytes)
{
    return static_cast<const char *>(rows) + (static_cast<size_t>(key) - run.begin) * row_bytes;
}

#endif
