// Random reads of the disk tier, for tools/bench_disk.sh: writes a file of extents, says where it
// is, then measures as often as it is told on standard input.
//
// Usage: bench_store DIR GIB uring|pread DEPTH
// Prints "/proc/PID/fd/N", then for every line "KIB SECONDS" that it reads a line of reads
// per second. Every batch is about what a layer of a decode step asks for.

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/base/mem.h"
#include "src/base/rng.h"
#include "tests/check.h"
#include "tests/io/store_rig.h"

enum { EXTENT_PAGES = 512, BATCH_READS = 2048, READ_BYTES_MAX = 64 * 1024, EXTENTS_MAX = 1 << 16 };

static struct store_extent extents[EXTENTS_MAX];

static size_t write_file(struct store_rig *rig, const struct queue_ops *queue_ops)
{
    size_t n = rig->params.bytes_max / STORE_PAGE_BYTES / EXTENT_PAGES;
    if (n > EXTENTS_MAX) n = EXTENTS_MAX;
    store_rig_open(rig, queue_ops);
    for (size_t i = 0; i < n; i++)
        extents[i] = store_rig_put(rig, i, EXTENT_PAGES);
    return n;
}

static double measure(struct store_rig *rig, size_t n_extents, uint32_t n_pages, double seconds,
                      struct rng *rng)
{
    static struct store_read reads[BATCH_READS];
    const uint64_t begin_ns = clock_ns();
    uint64_t spent_ns = 0;
    size_t n = 0;
    while ((double)spent_ns < seconds * 1e9) {
        for (size_t i = 0; i < BATCH_READS; i++)
            reads[i] = (struct store_read){
                .extent = extents[rng_below(rng, (uint32_t)n_extents)],
                .page = rng_below(rng, EXTENT_PAGES / n_pages) * n_pages,
                .n_pages = n_pages,
                .at = rig->buffer + i * n_pages * STORE_PAGE_BYTES,
            };
        check_ok(store_ops.submit(rig->store, reads, BATCH_READS));
        check_ok(store_ops.wait(rig->store, INT64_MAX));
        n += BATCH_READS;
        spent_ns = clock_ns() - begin_ns;
    }
    return (double)n * 1e9 / (double)spent_ns;
}

int main(int argc, char **argv)
{
    struct store_rig rig;
    struct rng rng;
    uint32_t kib, n = 0;
    double seconds;
    if (argc != 5) {
        fprintf(stderr, "usage: bench_store DIR GIB uring|pread DEPTH\n");
        return 1;
    }
    store_rig_init(&rig, (uint64_t)BATCH_READS * READ_BYTES_MAX);
    rng_init(&rng, 1);
    rig.params.dir = argv[1];
    rig.params.bytes_max = strtoull(argv[2], NULL, 10) << 30;
    rig.params.depth = (uint32_t)strtoul(argv[4], NULL, 10);
    n = (uint32_t)write_file(&rig, strcmp(argv[3], "uring") == 0 ? &queue_uring : &queue_pread);
    fprintf(stderr, "bench_store: %s\n", store_ops.text(rig.store));
    printf("/proc/%d/fd/%d\n", (int)getpid(), disk_store_fd(rig.store));
    fflush(stdout);
    while (scanf("%" SCNu32 " %lf", &kib, &seconds) == 2) {
        if (kib < 4 || kib > READ_BYTES_MAX / 1024) break;
        printf("%.0f\n", measure(&rig, n, kib / 4, seconds, &rng));
        fflush(stdout);
    }
    store_rig_fini(&rig);
    return 0;
}
