// The geometry of launches: within what every device takes, and wide enough for the work.

#include "tests/check.h"

#include "gpu/gpu_grid.h"

enum { BLOCKS_MAX = 4096 };

static const size_t counts[] = {0,    1,    2,     31,      32,       33,         127,
                                128,  129,  255,   256,     257,      4095,       4096,
                                4097, 8192, 65536, 1048576, 16777217, 4294967297, (size_t)1 << 40};
enum { COUNTS = sizeof counts / sizeof counts[0] };

static void check_grid(struct gpu_grid grid)
{
    assert_true(grid.threads > 0 && grid.threads <= 1024 && grid.threads % GPU_WARP == 0);
    assert_true(grid.blocks[0] > 0 && grid.blocks[0] <= BLOCKS_MAX);
    assert_int_equal(grid.blocks[1], 1);
    assert_int_equal(grid.blocks[2], 1);
    assert_int_equal(grid.shared_bytes, 0);
}

static void test_values(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNTS; i++) {
        const size_t n = counts[i];
        struct gpu_grid grid = gpu_grid_values(n);
        check_grid(grid);
        assert_int_equal(grid.threads, GPU_VALUE_THREADS);
        const size_t n_threads = (size_t)grid.threads * grid.blocks[0];
        // A thread for each, and no block without work; or as many as there may be.
        assert_true(grid.blocks[0] == BLOCKS_MAX || n_threads >= n);
        assert_true(grid.blocks[0] == 1 || n > n_threads - grid.threads);
    }
}

static void test_warps(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNTS; i++) {
        struct gpu_grid grid = gpu_grid_warps(counts[i]);
        check_grid(grid);
        assert_memory_equal(&grid, (struct gpu_grid[]){gpu_grid_values(counts[i] * GPU_WARP)},
                            sizeof grid);
    }
    assert_int_equal(gpu_grid_warps(SIZE_MAX).blocks[0], BLOCKS_MAX);
}

static void test_slabs(void **state)
{
    (void)state;
    static const struct {
        uint32_t n, blocks;
    } cases[] = {{0, 1}, {1, 1}, {2048, 1}, {2049, 2}, {152064, 75}, {INT32_MAX, 1 << 20}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct gpu_grid grid = gpu_grid_slabs(cases[i].n);
        assert_int_equal(grid.blocks[0], cases[i].blocks);
        assert_int_equal(grid.threads, GPU_SLAB_THREADS);
    }
}

static void test_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNTS; i++)
        for (size_t j = 0; j < COUNTS; j++) {
            const size_t n_rows = counts[i], n_cols = counts[j];
            struct gpu_grid grid = gpu_grid_rows(n_rows, n_cols);
            check_grid(grid);
            assert_true(grid.blocks[0] == BLOCKS_MAX || grid.blocks[0] >= n_rows);
            assert_true(grid.blocks[0] == 1 || grid.blocks[0] <= n_rows);
            assert_true(grid.threads == GPU_ROW_THREADS_MAX || 4 * (size_t)grid.threads >= n_cols);
            assert_true(grid.threads == GPU_WARP || 4 * (size_t)(grid.threads - GPU_WARP) < n_cols);
        }
}

// Parts cover the keys without an empty one, are not shorter than asked for, and no more than twice
// as many as wanted.
static void test_parts(void **state)
{
    (void)state;
    static const uint32_t n_keys[] = {0, 1, 63, 64, 65, 127, 128, 300, 4096, 131072, 4000000000};
    static const size_t units[] = {1, 3, 8, 100, 5000}, wanted[] = {1, 8, 264, 1584};
    for (size_t i = 0; i < sizeof n_keys / sizeof n_keys[0]; i++)
        for (size_t j = 0; j < 5; j++)
            for (size_t k = 0; k < 4; k++) {
                struct gpu_parts parts = gpu_cut_keys(n_keys[i], units[j], wanted[k], 64);
                const uint64_t covered = (uint64_t)parts.n * parts.keys;
                assert_true(parts.n >= 1 && parts.keys % 64 == 0 && parts.keys > 0);
                assert_true(covered >= n_keys[i]);
                assert_true(parts.n == 1 || covered - parts.keys < n_keys[i]);
                assert_true(parts.n == 1 || parts.n * units[j] < 2 * wanted[k]);
                // Half of what is wanted at least, where there are keys enough.
                assert_true(n_keys[i] < 64 * 2 * wanted[k] || 2 * parts.n * units[j] >= wanted[k]);
            }
    // Parts for as many keys as may come, of those that do.
    for (uint32_t n = 1; n < 200; n += 7)
        for (uint32_t k = 0; k < 20000; k += 13)
            assert_true(n * GPU_PART_KEYS(k, n) >= k && GPU_PART_KEYS(k, n) > 0);
    struct gpu_grid grid = gpu_grid_parts(3, 8, 33, 128, 4096);
    assert_int_equal(grid.blocks[0], 3 * 8 * 33);
    assert_true(grid.blocks[1] == 1 && grid.blocks[2] == 1);
    assert_true(grid.threads == 128 && grid.shared_bytes == 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values), cmocka_unit_test(test_warps), cmocka_unit_test(test_slabs),
        cmocka_unit_test(test_rows),   cmocka_unit_test(test_parts),
    };
    return check_run("t_gpu_grid", tests, sizeof tests / sizeof tests[0]);
}
