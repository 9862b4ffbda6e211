// The list of CPUs: on this machine, under a binding, and on described and recorded machines, which
// hwloc reads in place of this one when HWLOC_SYNTHETIC, HWLOC_XMLFILE or HWLOC_FSROOT say so.

#include "tests/check.h"

#include "io/topology.h"

#include <ftw.h>
#include <hwloc.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

static int forget_machine(void **state)
{
    (void)state;
    unsetenv("HWLOC_SYNTHETIC");
    unsetenv("HWLOC_XMLFILE");
    unsetenv("HWLOC_FSROOT");
    unsetenv("HWLOC_THISSYSTEM");
    return 0;
}

static void pretend_machine(const char *variable, const char *value)
{
    forget_machine(NULL);
    setenv(variable, value, 1);
    setenv("HWLOC_THISSYSTEM", "0", 1);
}

static void assert_sane(const struct cores *cores)
{
    assert_non_null(cores->cpus);
    assert_true(cores->n_cores >= 1);
    assert_true(cores->n_cores <= cores->n_cpus);
    for (uint32_t i = 0; i < cores->n_cpus; i++) {
        assert_true(cores->cpus[i] >= 0);
        for (uint32_t j = 0; j < i; j++)
            assert_int_not_equal(cores->cpus[i], cores->cpus[j]);
    }
}

static void assert_cpus(const struct cores *cores, const int32_t *cpus, uint32_t n_cpus)
{
    assert_int_equal(cores->n_cpus, n_cpus);
    for (uint32_t i = 0; i < n_cpus; i++)
        assert_int_equal(cores->cpus[i], cpus[i]);
}

// The system's own answer is the truth for which CPUs, not for their order.
static void test_live(void **state)
{
    cpu_set_t set;
    struct cores cores;
    (void)state;
    check_ok(topology_cores(&cores));
    assert_sane(&cores);
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    assert_int_equal(cores.n_cpus, CPU_COUNT(&set));
    for (uint32_t i = 0; i < cores.n_cpus; i++)
        assert_true(CPU_ISSET(cores.cpus[i], &set));
    printf("cpus=%u, cores=%u, last_cache_bytes=%llu\n", cores.n_cpus, cores.n_cores,
           (unsigned long long)cores.last_cache_bytes);
    topology_cores_fini(&cores);
    assert_null(cores.cpus);
}

static void test_live_bound(void **state)
{
    cpu_set_t old;
    cpu_set_t one;
    struct cores cores;
    int32_t last = -1;
    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof old, &old), 0);
    for (int32_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &old)) last = cpu;
    CPU_ZERO(&one);
    CPU_SET(last, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    fathom_status status = topology_cores(&cores);
    assert_int_equal(sched_setaffinity(0, sizeof old, &old), 0);
    check_ok(status);
    assert_cpus(&cores, &last, 1);
    assert_int_equal(cores.n_cores, 1);
    topology_cores_fini(&cores);
}

enum { NO_NAMESPACE = 77 };

// Leaves the child's exit status: 0 if the list is right and nothing was printed.
static void list_without_sysfs(int stderr_file)
{
    struct cores cores;
    cpu_set_t set;
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) _exit(NO_NAMESPACE);
    if (mount("none", "/sys", "tmpfs", 0, NULL) != 0) _exit(NO_NAMESPACE);
    dup2(stderr_file, STDERR_FILENO);
    if (topology_cores(&cores) < 0 || sched_getaffinity(0, sizeof set, &set) != 0) _exit(1);
    bool is_right = cores.n_cpus == (uint32_t)CPU_COUNT(&set);
    topology_cores_fini(&cores);
    _exit(is_right ? 0 : 1);
}

// In a chroot where nobody mounted /sys.
static void test_no_sysfs(void **state)
{
    char text[256] = "";
    int wait_status = 0;
    int stderr_file = memfd_create("stderr", MFD_CLOEXEC);
    (void)state;
    assert_true(stderr_file >= 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) list_without_sysfs(stderr_file);
    assert_int_equal(waitpid(child, &wait_status, 0), child);
    assert_true(pread(stderr_file, text, sizeof text - 1, 0) >= 0);
    close(stderr_file);
    assert_true(WIFEXITED(wait_status));
    if (WEXITSTATUS(wait_status) == NO_NAMESPACE) check_skip("cannot hide /sys from a child");
    assert_string_equal(text, "");
    assert_int_equal(WEXITSTATUS(wait_status), 0);
}

// Two packages of three cores of two threads, numbered as Linux does on such machines: the second
// threads after all first ones.
static void test_threads_follow_cores(void **state)
{
    static const int32_t expected[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    struct cores cores;
    (void)state;
    pretend_machine("HWLOC_SYNTHETIC",
                    "pack:2 l3:1(size=25165824) l2:3(size=1048576) core:1 pu:2(indexes=2*6:1*2)");
    check_ok(topology_cores(&cores));
    assert_int_equal(cores.n_cores, 6);
    assert_cpus(&cores, expected, 12);
    assert_int_equal(cores.last_cache_bytes, 24 << 20);
    topology_cores_fini(&cores);

    // The same with neighbouring threads numbered side by side.
    static const int32_t side_by_side[] = {0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11};
    pretend_machine("HWLOC_SYNTHETIC", "pack:2 l2:3(size=1048576) core:1 pu:2");
    check_ok(topology_cores(&cores));
    assert_int_equal(cores.n_cores, 6);
    assert_cpus(&cores, side_by_side, 12);
    assert_int_equal(cores.last_cache_bytes, 1 << 20);
    topology_cores_fini(&cores);
}

// Virtual machines and some small boards show no cores and no caches.
static void test_no_cores(void **state)
{
    static const int32_t expected[] = {0, 1, 2, 3};
    struct cores cores;
    (void)state;
    pretend_machine("HWLOC_SYNTHETIC", "pu:4");
    check_ok(topology_cores(&cores));
    assert_int_equal(cores.n_cores, 4);
    assert_cpus(&cores, expected, 4);
    assert_int_equal(cores.last_cache_bytes, 0);
    topology_cores_fini(&cores);
}

static void register_kind(hwloc_topology_t topology, const char *cpus, int efficiency)
{
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    assert_int_equal(hwloc_bitmap_list_sscanf(set, cpus), 0);
    assert_int_equal(hwloc_cpukinds_register(topology, set, efficiency, 0, NULL, 0), 0);
    hwloc_bitmap_free(set);
}

// Writes the description of a machine whose slow cores of one thread come first in the system's
// numbering (0, 2, 4, 6), and its fast ones of two threads last (8 and 9, 10 and 11).
static void describe_two_kinds(const char *path)
{
    hwloc_topology_t topology;
    hwloc_bitmap_t kept = hwloc_bitmap_alloc();
    forget_machine(NULL);
    assert_int_equal(hwloc_topology_init(&topology), 0);
    assert_int_equal(hwloc_topology_set_synthetic(topology, "core:6 pu:2"), 0);
    assert_int_equal(hwloc_topology_load(topology), 0);
    assert_int_equal(hwloc_bitmap_list_sscanf(kept, "0,2,4,6,8-11"), 0);
    assert_int_equal(hwloc_topology_restrict(topology, kept, 0), 0);
    register_kind(topology, "8-11", 5);
    register_kind(topology, "0,2,4,6", 1);
    assert_int_equal(hwloc_topology_export_xml(topology, path, 0), 0);
    hwloc_bitmap_free(kept);
    hwloc_topology_destroy(topology);
}

static void test_fast_kind_first(void **state)
{
    static const int32_t expected[] = {8, 10, 0, 2, 4, 6, 9, 11};
    char path[] = "/tmp/t_topology_XXXXXX";
    struct cores cores;
    (void)state;
    int file = mkstemp(path);
    assert_true(file >= 0);
    close(file);
    describe_two_kinds(path);
    pretend_machine("HWLOC_XMLFILE", path);
    fathom_status status = topology_cores(&cores);
    unlink(path);
    check_ok(status);
    assert_int_equal(cores.n_cores, 6);
    assert_cpus(&cores, expected, 8);
    topology_cores_fini(&cores);
}

// Recorded machines: those in a format that is newer than the hwloc at hand must be refused with
// EUNSUPPORTED, the others have the cores that their files list.
static void test_recorded_xml(void **state)
{
    static const struct {
        const char *name;
        uint32_t n_cores;
    } machines[] = {
        {"hwloc/cxlmem+dax.v2.xml", 4},
        {"hwloc/nvidiaDGX2.xml", 4},
        {"hwloc/32em64t-2n8c+dax+nvme+mic+dimms.xml", 16},
    };
    size_t n_read = 0;
    (void)state;
    for (size_t i = 0; i < sizeof machines / sizeof machines[0]; i++) {
        struct cores cores = {0};
        pretend_machine("HWLOC_XMLFILE", check_data(machines[i].name));
        fathom_status status = topology_cores(&cores);
        if (status == FATHOM_EUNSUPPORTED) {
            assert_null(cores.cpus);
            printf("%s: %s\n", machines[i].name, fathom_last_error());
            continue;
        }
        check_ok(status);
        assert_sane(&cores);
        assert_int_equal(cores.n_cores, machines[i].n_cores);
        assert_int_equal(cores.n_cpus, machines[i].n_cores);
        assert_true(cores.last_cache_bytes > 0);
        topology_cores_fini(&cores);
        n_read++;
    }
    assert_true(n_read >= 1); // the file of format 2
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info;
    (void)kind;
    (void)where;
    return remove(path);
}

// The system tree of a POWER machine: eight cores of four threads, with holes in the numbering.
static void test_recorded_tree(void **state)
{
    static const int32_t first_threads[8] = {0, 4, 8, 12, 88, 92, 96, 100};
    const char *archive = check_data("hwloc/nvidiagpunumanodes.tar.bz2");
    char folder[] = "/tmp/t_topology_XXXXXX";
    char text[8192];
    struct cores cores = {0};
    fathom_status status = FATHOM_OK;
    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(text, sizeof text, "tar -xjf '%s' -C '%s'", archive, folder);
    bool unpacked = system(text) == 0;
    if (unpacked) {
        snprintf(text, sizeof text, "%s/nvidiagpunumanodes", folder);
        pretend_machine("HWLOC_FSROOT", text);
        status = topology_cores(&cores);
    }
    nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    if (!unpacked) check_skip("cannot unpack %s", archive);
    check_ok(status);
    assert_sane(&cores);
    assert_int_equal(cores.n_cores, 8);
    assert_int_equal(cores.n_cpus, 32);
    for (uint32_t i = 0; i < 8; i++)
        assert_int_equal(cores.cpus[i], first_threads[i]);
    topology_cores_fini(&cores);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_live, forget_machine),
        cmocka_unit_test_teardown(test_live_bound, forget_machine),
        cmocka_unit_test_teardown(test_no_sysfs, forget_machine),
        cmocka_unit_test_teardown(test_threads_follow_cores, forget_machine),
        cmocka_unit_test_teardown(test_no_cores, forget_machine),
        cmocka_unit_test_teardown(test_fast_kind_first, forget_machine),
        cmocka_unit_test_teardown(test_recorded_xml, forget_machine),
        cmocka_unit_test_teardown(test_recorded_tree, forget_machine),
    };
    unsetenv("HWLOC_HIDE_ERRORS"); // the library must not print without it either
    return check_run("t_topology", tests, sizeof tests / sizeof tests[0]);
}
