/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The node's own counters: memory.available and the number of tasks. */
#ifndef EVICT_NODE_H
#define EVICT_NODE_H

/* Nodes that have memory, their ids, and their zones. */
#define MAX_NUMA_NODES 16
#define MAX_NUMA_IDS 64
#define MAX_ZONEREFS 96
#define MAX_CGROUP_DEPTH 10

/* Pages of the node (MemTotal). Written by pkg/loader at each far tick:
 * balloons and hotplug move it. */
__s64 mem_total_pages;

/* The smaller of kernel.pid_max and kernel.threads-max. Written by pkg/loader
 * at each far tick. */
__s64 tasks_max;

/*
 * Where the counters are; constant while the kernel runs. Learnt from a task's
 * own pointers (no data ksyms: kernels before 5.11 and modules' BTF lack
 * them).
 */
__u64 pgdats[MAX_NUMA_NODES];
__u64 init_pid_ns;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct node_row);
} node SEC(".maps");

static __always_inline struct node_row *the_node(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&node, &zero);
}

static __always_inline __s64 node_stat(__u64 pgdat, __u32 item)
{
	struct pglist_data *p = (void *)pgdat;
	__s64 pages = 0;

	bpf_probe_read_kernel(&pages, sizeof(pages), &p->vm_stat[0].counter + item);
	return pages;
}

/*
 * memory.available in pages, as the kubelet computes it: MemTotal less
 * anonymous and file pages, plus inactive file. Equal to /proc/meminfo to the
 * page: both leave out the CPUs' unfolded deltas (mm/vmstat.c).
 */
static __always_inline __s64 node_available(struct node_row *n)
{
	const __u32 anon_item = bpf_core_enum_value(enum node_stat_item, NR_ANON_MAPPED);
	const __u32 file_item = bpf_core_enum_value(enum node_stat_item, NR_FILE_PAGES);
	const __u32 inactive_item = bpf_core_enum_value(enum node_stat_item, NR_INACTIVE_FILE);
	__s64 anon = 0, file = 0, inactive = 0;

	for (int i = 0; i < MAX_NUMA_NODES; i++) {
		if (!pgdats[i])
			break;
		anon += node_stat(pgdats[i], anon_item);
		file += node_stat(pgdats[i], file_item);
		inactive += node_stat(pgdats[i], inactive_item);
	}
	n->anon_pages = anon;
	n->file_pages = file;
	n->inactive_file_pages = inactive;
	n->available_pages = mem_total_pages - anon - file + inactive;
	return n->available_pages;
}

/* Tasks of the node, unreaped ones included. */
static __always_inline __s64 node_tasks(struct node_row *n)
{
	struct pid_namespace *ns = (void *)init_pid_ns;

	if (ns)
		n->tasks = BPF_CORE_READ(ns, pid_allocated) & 0x7fffffff;
	return n->tasks;
}

static __always_inline void look_at_node(void)
{
	struct node_row *n = the_node();

	if (!n)
		return;
	node_available(n);
	node_tasks(n);
	n->updated_ns = bpf_ktime_get_ns();
}

/* The pgdat of a node that the cgroup or an ancestor has used. A cgroup's own
 * pointers to the others are empty until it uses them (mm/memcontrol.c). */
static __always_inline struct pglist_data *any_pgdat(struct cgroup_subsys_state *css)
{
	for (int depth = 0; depth < MAX_CGROUP_DEPTH; depth++) {
		struct mem_cgroup *memcg;

		if (!css)
			break;
		memcg = (void *)css - bpf_core_field_offset(struct mem_cgroup, css);
		for (int nid = 0; nid < MAX_NUMA_IDS; nid++) {
			struct mem_cgroup_per_node *per_node = NULL;
			struct pglist_data *pgdat;

			if (nid >= numa_ids)
				break;
			bpf_core_read(&per_node, sizeof(per_node), &memcg->nodeinfo[nid]);
			pgdat = per_node ? BPF_CORE_READ(per_node, lruvec.pgdat) : NULL;
			if (pgdat)
				return pgdat;
		}
		css = BPF_CORE_READ(css, parent);
	}
	return NULL;
}

/* Adds a pgdat behind those that are known, which stay where they are: hooks
 * read them meanwhile. 0: no room. A global function: the verifier checks it once,
 * and not for each zone. */
__noinline int add_pgdat(__u64 pgdat)
{
	for (int i = 0; i < MAX_NUMA_NODES; i++) {
		if (!pgdats[i])
			pgdats[i] = pgdat;
		if (pgdats[i] == pgdat)
			return true;
	}
	return false;
}

/* Fills pgdats and init_pid_ns, from the current task and the list of zones
 * that an allocation may fall back to: every node that has memory is in it.
 * False when one was not found a place, or none. */
static __always_inline bool learn_node(struct task_struct *task, struct cgroup_subsys_state *css)
{
	struct pglist_data *any = any_pgdat(css);
	void *refs = (void *)any + bpf_core_field_offset(struct pglist_data, node_zonelists);

	init_pid_ns = (__u64)BPF_CORE_READ(task, thread_pid, numbers[0].ns);
	if (!any)
		return false;
	for (int i = 0; i < MAX_ZONEREFS; i++) {
		struct zone *zone = NULL;

		bpf_probe_read_kernel(&zone, sizeof(zone), refs + i * bpf_core_type_size(struct zoneref));
		if (!zone)
			return init_pid_ns != 0;
		if (!add_pgdat((__u64)BPF_CORE_READ(zone, zone_pgdat)))
			return false;
	}
	return false;
}

#endif
