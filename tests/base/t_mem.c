// Blocks, arenas, reserved ranges, and sizes that must not wrap.

#include "tests/check.h"

#include "src/base/mem.h"
#include "src/base/rng.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void assert_zero(const unsigned char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (bytes[i] != 0) fail_msg("byte %zu of %zu is %d", i, count, bytes[i]);
}

static void assert_aligned(const void *at)
{
    assert_int_equal((uintptr_t)at % MEM_ALIGN_BYTES, 0);
}

static void test_sizes(void **state)
{
    size_t out = 77;
    (void)state;
    assert_false(size_add(SIZE_MAX, 1, &out));
    assert_false(size_mul(SIZE_MAX / 2, 3, &out));
    assert_false(size_mul((size_t)1 << 32, (size_t)1 << 32, &out));
    assert_int_equal(out, 77);
    assert_true(size_add(SIZE_MAX - 1, 1, &out));
    assert_int_equal(out, SIZE_MAX);
    assert_true(size_mul(0, SIZE_MAX, &out));
    assert_int_equal(out, 0);
    assert_int_equal(size_round(0, 64), 0);
    assert_int_equal(size_round(1, 64), 64);
    assert_int_equal(size_round(64, 64), 64);
    assert_int_equal(size_round(65, 1), 65);
}

static void test_new(void **state)
{
    static const size_t counts[] = {0, 1, 63, 64, 65, 1000000};
    (void)state;
    for (int round = 0; round < 3; round++) { // later rounds meet used memory
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
            unsigned char *block = NULL;
            check_ok(mem_new(counts[i], 3, "test block", &block));
            assert_non_null(block);
            assert_aligned(block);
            assert_zero(block, counts[i] * 3);
            memset(block, 0xa5, counts[i] * 3);
            mem_free(block);
        }
    }
    mem_free(NULL);
}

static void test_new_fails(void **state)
{
    int untouched = 0;
    int *block = &untouched;
    (void)state;
    assert_int_equal(mem_new(SIZE_MAX / 2, 3, "wrapped block", &block), FATHOM_ENOMEM);
    assert_non_null(strstr(fathom_last_error(), "wrapped block"));
    assert_int_equal(mem_new(SIZE_MAX, 1, "padded block", &block), FATHOM_ENOMEM);
    assert_non_null(strstr(fathom_last_error(), "padded block"));
    assert_ptr_equal(block, &untouched);
}

static void test_grow(void **state)
{
    uint32_t *items = NULL;
    size_t count = 0;
    (void)state;
    for (size_t next = 1; next < 5000; next = next * 3 + 1) {
        check_ok(mem_grow(count, next, sizeof *items, "items", &items));
        assert_aligned(items);
        for (size_t i = 0; i < count; i++)
            assert_int_equal(items[i], 1000 + i);
        assert_zero((const unsigned char *)(items + count), (next - count) * sizeof *items);
        for (size_t i = 0; i < next; i++)
            items[i] = (uint32_t)(1000 + i);
        count = next;
    }
    uint32_t *before = items;
    assert_int_equal(mem_grow(count, SIZE_MAX / 2, sizeof *items, "items", &items), FATHOM_ENOMEM);
    assert_ptr_equal(items, before);
    assert_int_equal(items[count - 1], 1000 + count - 1);
    mem_free(items);
}

static void test_string(void **state)
{
    char *copy = NULL;
    (void)state;
    check_ok(mem_string("hello, world", 5, &copy));
    assert_string_equal(copy, "hello");
    mem_free(copy);
    check_ok(mem_string(NULL, 0, &copy));
    assert_string_equal(copy, "");
    mem_free(copy);
}

// Pages of the range that lie in memory.
static size_t count_resident(void *at, size_t bytes)
{
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    size_t n_pages = bytes / page_bytes;
    unsigned char *flags = NULL;
    size_t n_resident = 0;
    check_ok(mem_new(n_pages, 1, "page flags", &flags));
    assert_int_equal(mincore(at, bytes, flags), 0);
    for (size_t i = 0; i < n_pages; i++)
        n_resident += flags[i] & 1;
    mem_free(flags);
    return n_resident;
}

static void test_reserve(void **state)
{
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    size_t bytes = (size_t)64 << 20;
    void *block = NULL;
    (void)state;
    check_ok(mem_reserve(bytes, MEM_PAGES_HUGE, "range", &block));
    unsigned char *range = block;
    assert_int_equal((uintptr_t)range % ((size_t)2 << 20), 0);
    assert_int_equal(count_resident(range, bytes), 0);
    memset(range, 1, 4 << 20);
    range[bytes - 1] = 1;
    assert_true(count_resident(range, bytes) >= (4u << 20) / page_bytes);
    // Only whole pages inside go: the bytes beside them stay.
    mem_discard(range + 1, 4 * page_bytes - 2);
    assert_int_equal(range[page_bytes - 1], 1);
    assert_zero(range + page_bytes, 2 * page_bytes);
    assert_int_equal(range[3 * page_bytes], 1);
    mem_discard(range + 5 * page_bytes + 1, 10); // holds no whole page
    assert_int_equal(range[5 * page_bytes + 1], 1);
    mem_discard(range, bytes);
    assert_int_equal(count_resident(range, bytes), 0);
    assert_zero(range, 1 << 20);
    mem_unreserve(range, bytes);
    unsigned char flag;
    assert_int_equal(mincore(range, page_bytes, &flag), -1); // no longer mapped

    // Small pages: a byte here and there takes a page each, no more.
    check_ok(mem_reserve(bytes, MEM_PAGES_SMALL, "range", &block));
    range = block;
    for (size_t at = 0; at < bytes; at += (size_t)4 << 20)
        range[at] = 1;
    assert_int_equal(count_resident(range, bytes), 16);
    mem_unreserve(range, bytes);

    check_ok(mem_reserve(0, MEM_PAGES_HUGE, "empty range", &block));
    mem_unreserve(block, 0);
    mem_unreserve(NULL, 10);
    assert_int_equal(mem_reserve(SIZE_MAX, MEM_PAGES_HUGE, "endless range", &block), FATHOM_ENOMEM);
    assert_int_equal(mem_reserve((size_t)1 << 60, MEM_PAGES_HUGE, "huge range", &block),
                     FATHOM_ENOMEM);
    assert_non_null(strstr(fathom_last_error(), "huge range"));
}

// Blocks of random sizes, each filled with its own byte: any overlap shows.
static void test_arena(void **state)
{
    enum { N_BLOCKS = 2000 };
    static struct {
        unsigned char *at;
        size_t bytes;
    } blocks[N_BLOCKS];
    struct arena arena = {0};
    size_t used_bytes = 0;
    struct rng rng;
    (void)state;
    printf("seed 7\n");
    rng_init(&rng, 7);
    for (int i = 0; i < N_BLOCKS; i++) {
        uint32_t kind = rng_below(&rng, 100);
        size_t bytes = rng_below(&rng, kind < 90 ? 200 : kind < 98 ? 17000 : 100000);
        const size_t total_bytes = arena.total_bytes;
        blocks[i].bytes = bytes;
        if (kind % 2 == 0) {
            check_ok(arena_new(&arena, bytes, 1, "block", &blocks[i].at));
            assert_aligned(blocks[i].at);
            assert_zero(blocks[i].at, bytes);
        } else {
            char text[200] = "";
            char *copy = NULL;
            if (bytes >= sizeof text) bytes = sizeof text - 1;
            memset(text, 'a' + i % 26, bytes);
            check_ok(arena_string(&arena, text, bytes, &copy));
            assert_string_equal(copy, text);
            blocks[i].at = (unsigned char *)copy;
            blocks[i].bytes = bytes + 1;
        }
        memset(blocks[i].at, i % 251, blocks[i].bytes);
        used_bytes += blocks[i].bytes;
        assert_true(arena.total_bytes <= total_bytes + blocks[i].bytes + ARENA_CHUNK_BYTES);
        assert_true(arena.total_bytes >= used_bytes);
    }
    for (int i = 0; i < N_BLOCKS; i++)
        for (size_t j = 0; j < blocks[i].bytes; j++)
            if (blocks[i].at[j] != i % 251) fail_msg("block %d was written over", i);
    arena_fini(&arena);
    assert_null(arena.chunks);
    assert_int_equal(arena.total_bytes, 0);

    char *text = NULL;
    int *number = NULL;
    check_ok(arena_string(&arena, "again", 5, &text)); // usable after fini
    check_ok(arena_new(&arena, 1, sizeof *number, "number", &number));
    assert_aligned(number);
    assert_string_equal(text, "again");
    assert_int_equal(arena_new(&arena, SIZE_MAX, 2, "wrapped", &number), FATHOM_ENOMEM);
    assert_int_equal(arena_new(&arena, SIZE_MAX, 1, "headless", &number), FATHOM_ENOMEM);
    assert_int_equal(*number, 0);
    arena_fini(&arena);
    arena_fini(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),     cmocka_unit_test(test_new),
        cmocka_unit_test(test_new_fails), cmocka_unit_test(test_grow),
        cmocka_unit_test(test_string),    cmocka_unit_test(test_reserve),
        cmocka_unit_test(test_arena),
    };
    return check_run("t_mem", tests, sizeof tests / sizeof tests[0]);
}
