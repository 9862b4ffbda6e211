// Which CPUs to compute on, asked of hwloc once at open.
//
// hwloc leaves out what the system forbids (cpusets of a container); the process's own binding
// (taskset, a batch system) is asked for on top. Nothing is bound here.

#include "io/topology.h"

#include "src/base/mem.h"
#include "src/base/status.h"

#include <errno.h>
#include <hwloc.h>
#include <string.h>
#include <unistd.h>

// Kinds of core are numbered from the slowest; -1 stands for PUs of no known kind, or when hwloc
// cannot rank them. A PU is hwloc's word for a hardware thread.
static int count_kinds(hwloc_topology_t topology)
{
    int n_kinds = hwloc_cpukinds_get_nr(topology, 0);
    int efficiency = -1;
    if (n_kinds <= 0) return 0;
    if (hwloc_cpukinds_get_info(topology, 0, NULL, &efficiency, NULL, NULL, 0) != 0) return 0;
    return efficiency < 0 ? 0 : n_kinds;
}

static int find_kind(hwloc_topology_t topology, hwloc_obj_t pu, int n_kinds)
{
    return n_kinds == 0 ? -1 : hwloc_cpukinds_get_by_cpuset(topology, pu->cpuset, 0);
}

// The first PU, of those usable, of its core; where hwloc sees no cores, each PU is one.
static bool leads_core(hwloc_topology_t topology, hwloc_obj_t pu, hwloc_const_cpuset_t usable)
{
    hwloc_obj_t core = hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_CORE, pu);
    if (core == NULL) return true;
    hwloc_obj_t other = NULL;
    while ((other = hwloc_get_next_obj_inside_cpuset_by_type(topology, core->cpuset, HWLOC_OBJ_PU,
                                                             other)) != NULL)
        if (hwloc_bitmap_isset(usable, other->os_index)) return other == pu;
    return false;
}

// Size of the outermost data cache above a PU.
static uint64_t find_last_cache(hwloc_obj_t pu)
{
    uint64_t bytes = 0;
    for (hwloc_obj_t object = pu->parent; object != NULL; object = object->parent)
        if (hwloc_obj_type_is_dcache(object->type)) bytes = object->attr->cache.size;
    return bytes;
}

// Appends the PUs of one kind that lead a core, or that do not.
static void append_cpus(hwloc_topology_t topology, hwloc_const_cpuset_t usable, int n_kinds,
                        int kind, bool leading, struct cores *cores)
{
    hwloc_obj_t pu = NULL;
    while ((pu = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PU, pu)) != NULL) {
        if (!hwloc_bitmap_isset(usable, pu->os_index)) continue;
        if (find_kind(topology, pu, n_kinds) != kind) continue;
        if (leads_core(topology, pu, usable) != leading) continue;
        if (cores->n_cpus == 0) cores->last_cache_bytes = find_last_cache(pu);
        cores->cpus[cores->n_cpus++] = (int32_t)pu->os_index;
    }
}

static fathom_status list_cpus(hwloc_topology_t topology, hwloc_const_cpuset_t usable,
                               struct cores *cores)
{
    int n_usable = hwloc_bitmap_weight(usable);
    if (n_usable <= 0)
        return status_set(FATHOM_EUNSUPPORTED, "topology: hwloc finds no CPU for this process");
    FATHOM_TRY(mem_new((size_t)n_usable, sizeof *cores->cpus, "list of CPUs", &cores->cpus));
    int n_kinds = count_kinds(topology);
    for (int kind = n_kinds - 1; kind >= -1; kind--)
        append_cpus(topology, usable, n_kinds, kind, true, cores);
    cores->n_cores = cores->n_cpus;
    for (int kind = n_kinds - 1; kind >= -1; kind--)
        append_cpus(topology, usable, n_kinds, kind, false, cores);
    return FATHOM_OK;
}

// The CPUs that are there, allowed, and in the process's binding where it has one.
static void find_usable(hwloc_topology_t topology, hwloc_cpuset_t usable)
{
    hwloc_const_cpuset_t allowed = hwloc_topology_get_allowed_cpuset(topology);
    if (hwloc_get_cpubind(topology, usable, HWLOC_CPUBIND_PROCESS) != 0)
        hwloc_bitmap_copy(usable, allowed);
    hwloc_bitmap_and(usable, usable, allowed);
    hwloc_bitmap_and(usable, usable, hwloc_topology_get_topology_cpuset(topology));
}

// Without /sys (a bare chroot) hwloc's part for Linux finds nothing and says so on standard error,
// which is not the library's to write to. Its other parts, for x86 and for any system, do the same
// without it.
static void avoid_missing_sysfs(hwloc_topology_t topology)
{
    if (access("/sys/devices/system/cpu", F_OK) == 0) return;
    (void)hwloc_topology_set_components(topology, HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST,
                                        "linux");
}

fathom_status topology_cores(struct cores *cores)
{
    hwloc_topology_t topology = NULL;
    hwloc_cpuset_t usable = NULL;
    struct cores found = {0};
    fathom_status status = FATHOM_OK;
    if (hwloc_topology_init(&topology) != 0) {
        status = status_set(FATHOM_ENOMEM, "topology: no memory for hwloc");
        goto out;
    }
    avoid_missing_sysfs(topology);
    if (hwloc_topology_load(topology) != 0) {
        status = status_set(FATHOM_EUNSUPPORTED, "topology: hwloc cannot read this machine: %s",
                            strerror(errno));
        goto out;
    }
    usable = hwloc_bitmap_alloc();
    if (usable == NULL) {
        status = status_set(FATHOM_ENOMEM, "topology: no memory for a set of CPUs");
        goto out;
    }
    find_usable(topology, usable);
    FATHOM_CHECK(list_cpus(topology, usable, &found), out);
    *cores = found;
out:
    hwloc_bitmap_free(usable);
    if (topology != NULL) hwloc_topology_destroy(topology);
    return status;
}

void topology_cores_fini(struct cores *cores)
{
    mem_free(cores->cpus);
    *cores = (struct cores){0};
}

uint64_t topology_memory_bytes(void)
{
    const long n_pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    return n_pages > 0 && page_bytes > 0 ? (uint64_t)n_pages * (uint64_t)page_bytes : 0;
}
