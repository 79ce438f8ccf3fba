/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The per-cgroup table: a row for each css id of the memory and of the pids
 * hierarchy. Values are read from the kernel's own counters, never integrated
 * from events.
 */
#ifndef EVICT_TABLE_H
#define EVICT_TABLE_H

/* Deepest cgroup whose ancestors are refreshed and checked with it. */
#define MAX_DEPTH 10

enum controller {
	CONTROLLER_MEMORY = 0,
	CONTROLLER_PIDS = 1,
};

struct table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_CGROUPS);
	__type(key, __u32);
	__type(value, struct cgroup_row);
};

struct table memory_cgroups SEC(".maps");
struct table pids_cgroups SEC(".maps");

/* Of each table, the highest row that was ever filled plus one: user space need
 * not touch the rest. */
__u32 rows_used[2];

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024); /* 1024 records, read at each tick; a lost one
					   costs a rate, not a kill */
	__type(value, struct record);
} deltas SEC(".maps");

/* The current state of a controller for a task. On v2 the nearest ancestor's
 * where it is not enabled. */
static __always_inline struct cgroup_subsys_state *css_of(struct task_struct *task, enum controller c)
{
	const __u32 id = c == CONTROLLER_MEMORY ? bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id)
						: bpf_core_enum_value(enum cgroup_subsys_id, pids_cgrp_id);
	struct css_set *set = BPF_CORE_READ(task, cgroups);
	struct cgroup_subsys_state *css = NULL;

	bpf_probe_read_kernel(&css, sizeof(css), &set->subsys[0] + id);
	return css;
}

static __always_inline struct mem_cgroup *memcg_of(struct cgroup_subsys_state *css)
{
	return (void *)css - bpf_core_field_offset(struct mem_cgroup, css);
}

/* Pages charged to a cgroup and its descendants: memory.current,
 * memory.usage_in_bytes. */
static __always_inline __s64 memory_usage(struct cgroup_subsys_state *css)
{
	struct mem_cgroup *memcg = memcg_of(css);

	return BPF_CORE_READ(memcg, memory.usage.counter);
}

/* The hierarchical counters of memory.stat: an array inside of mem_cgroup, a
 * struct that begins with one, or behind a pointer. */
static __always_inline const long *memory_stats(struct mem_cgroup *memcg)
{
	if (bpf_core_field_exists(struct mem_cgroup___atomic, vmstats))
		return (void *)memcg + bpf_core_field_offset(struct mem_cgroup___atomic, vmstats);
	if (bpf_core_field_exists(struct mem_cgroup___embedded, vmstats))
		return (void *)memcg + bpf_core_field_offset(struct mem_cgroup___embedded, vmstats) +
		       bpf_core_field_offset(struct memcg_vmstats, state);
	return (void *)BPF_CORE_READ(memcg, vmstats) + bpf_core_field_offset(struct memcg_vmstats, state);
}

/* The LRU items come first in every layout of the array, so their enum value is
 * their index. Before 5.13 an item lags by 32 pages a CPU, later by what was
 * not flushed. */
static __always_inline __s64 memory_inactive_file(struct cgroup_subsys_state *css)
{
	const long *stats = memory_stats(memcg_of(css));
	long pages = 0;

	bpf_probe_read_kernel(&pages, sizeof(pages),
			      stats + bpf_core_enum_value(enum node_stat_item, NR_INACTIVE_FILE));
	return pages > 0 ? pages : 0;
}

/* Tasks charged to a cgroup and its descendants, zombies included:
 * pids.current. */
static __always_inline __s64 pids_usage(struct cgroup_subsys_state *css)
{
	struct pids_cgroup *pids = (void *)css - bpf_core_field_offset(struct pids_cgroup, css);

	return BPF_CORE_READ(pids, counter.counter);
}

static __always_inline __u64 cgroup_id_of(struct cgroup_subsys_state *css)
{
	return BPF_CORE_READ(css, cgroup, kn, id);
}

/* Of all cgroups of a hierarchy that are still referred to, one alone has it. */
static __always_inline __u32 css_id_of(struct cgroup_subsys_state *css)
{
	return BPF_CORE_READ(css, id);
}

static __always_inline struct cgroup_row *row_of(enum controller c, __u32 css_id)
{
	if (c == CONTROLLER_MEMORY)
		return bpf_map_lookup_elem(&memory_cgroups, &css_id);
	return bpf_map_lookup_elem(&pids_cgroups, &css_id);
}

static __always_inline void send_delta(struct cgroup_row *row, __u32 css_id, enum observer by)
{
	struct record *r = bpf_ringbuf_reserve(&deltas, sizeof(*r), 0);

	if (!r) {
		struct node_row *n = the_node();

		if (n)
			__sync_fetch_and_add(&n->lost_samples, 1);
		return;
	}
	__builtin_memset(r, 0, sizeof(*r));
	r->ns = row->updated_ns;
	r->usage = row->usage;
	r->cgroup_id = row->cgroup_id;
	r->css_id = css_id;
	r->kind = RECORD_DELTA;
	r->observer = by;
	bpf_ringbuf_submit(r, BPF_RB_NO_WAKEUP);
}

/* What tells a cgroup from all others, two neighbours in every kernel: one read. */
struct css_name {
	__s32 id;
	__u32 flags;
	__u64 serial_nr;
};

static __always_inline struct css_name name_of(struct cgroup_subsys_state *css)
{
	struct css_name name = {};

	if (bpf_core_field_offset(css->serial_nr) - bpf_core_field_offset(css->id) ==
	    __builtin_offsetof(struct css_name, serial_nr)) {
		bpf_core_read(&name, sizeof(name), &css->id);
	} else {
		name.id = BPF_CORE_READ(css, id);
		name.serial_nr = BPF_CORE_READ(css, serial_nr);
	}
	return name;
}

/* The kernel's estimate of inactive file pages moves each 2 s, or when somebody
 * reads memory.stat: the hooks need not read it each time. */
#define INACTIVE_AGE_NS (10 * 1000000ULL)

/*
 * Reads a cgroup's counters into its row, and finds its parent, which it has for
 * life. A row that another CPU is writing is left to it: it is just as fresh. The
 * charge hook may be preempted (fentry, unlike a tracepoint): so all is read first,
 * the row is odd for a few stores only, and what was read before another's write
 * does not replace that.
 */
static __always_inline struct cgroup_row *refresh_row(enum controller c, struct cgroup_subsys_state *css, __u64 now,
						      __u64 inactive_age, struct cgroup_subsys_state **parent)
{
	struct css_name name = name_of(css);
	__u32 css_id = name.id, serial = name.serial_nr, parent_id;
	struct cgroup_row *row = row_of(c, css_id);
	__u64 cgroup_id, inactive_ns = 0;
	__s64 usage, inactive_file = 0;

	if (row && row->css == (__u64)css && row->serial == serial) { /* they are as they were */
		cgroup_id = row->cgroup_id;
		parent_id = row->parent;
		*parent = (void *)row->parent_css;
		if (now - row->inactive_ns < inactive_age) {
			inactive_ns = row->inactive_ns;
			inactive_file = row->inactive_file;
		}
	} else {
		*parent = BPF_CORE_READ(css, parent);
		if (!row)
			return NULL; /* of more cgroups than the table has room for */
		cgroup_id = cgroup_id_of(css);
		parent_id = *parent ? BPF_CORE_READ(*parent, id) : 0;
	}
	if (c == CONTROLLER_MEMORY) {
		usage = memory_usage(css);
		if (!inactive_ns) {
			inactive_ns = now;
			inactive_file = memory_inactive_file(css);
		}
	} else {
		usage = pids_usage(css);
	}
	if (row->seq & 1 || row->updated_ns > now)
		return row;
	if (css_id >= rows_used[c])
		rows_used[c] = css_id + 1;
	__sync_fetch_and_add(&row->seq, 1);
	if (row->cgroup_id != cgroup_id)
		row->reported = 0; /* the id was given to a new cgroup */
	row->cgroup_id = cgroup_id;
	row->parent = parent_id;
	row->css = (__u64)css;
	row->parent_css = (__u64)*parent;
	row->serial = serial; /* after what is taken from the row by it */
	row->usage = usage;
	row->inactive_file = inactive_file;
	row->inactive_ns = inactive_ns;
	row->updated_ns = now;
	__sync_fetch_and_add(&row->seq, 1);
	return row;
}

/*
 * The two below refresh one cgroup and return its parent. As global functions the
 * verifier checks them once, and not in each round of the loop that calls them. Up
 * to 5.12 they take numbers only: css is an address.
 */

__noinline __u64 refresh_memory(__u64 css, __u64 now, __u32 by)
{
	struct cgroup_subsys_state *at = (void *)css, *parent;
	struct cgroup_row *row = refresh_row(CONTROLLER_MEMORY, at, now, INACTIVE_AGE_NS, &parent);
	__s64 moved;

	if (row) {
		moved = row->usage - row->reported;
		if (moved >= delta_pages || moved <= -delta_pages) {
			row->reported = row->usage;
			send_delta(row, css_id_of(at), by);
		}
	}
	return (__u64)parent;
}

__noinline __u64 refresh_pids(__u64 css, __u64 now)
{
	struct cgroup_subsys_state *parent;

	refresh_row(CONTROLLER_PIDS, (void *)css, now, INACTIVE_AGE_NS, &parent);
	return (__u64)parent;
}

/* Refreshes a cgroup and its ancestors; the root's row too, it costs nothing
 * more. */
static __always_inline void refresh_memory_path(struct cgroup_subsys_state *css, enum observer by)
{
	__u64 now = bpf_ktime_get_ns(), at = (__u64)css;

	for (int depth = 0; at && depth < MAX_DEPTH; depth++)
		at = refresh_memory(at, now, by);
}

static __always_inline void refresh_pids_path(struct cgroup_subsys_state *css)
{
	__u64 now = bpf_ktime_get_ns(), at = (__u64)css;

	for (int depth = 0; at && depth < MAX_DEPTH; depth++)
		at = refresh_pids(at, now);
}

/* The css of a row if it is still the cgroup that the caller means. */
static __always_inline struct cgroup_subsys_state *css_of_row(struct cgroup_row *row, __u64 cgroup_id)
{
	struct cgroup_subsys_state *css = (void *)row->css;

	if (row->cgroup_id != cgroup_id || !css)
		return NULL;
	if (cgroup_id_of(css) != cgroup_id)
		return NULL; /* removed; the memory may be anything by now */
	return css;
}

/* One run of a walk ends after so many cgroups, 0.15 ms: no task gets the CPU
 * meanwhile where the kernel is not preemptible. */
#define WALK_CHUNK 256

/* Where a walk goes on, for each of those who walk. */
struct cursor {
	__u64 css; /* address, 0 at the end; checked by the id before it is used */
	__u64 cgroup_id;
};

#define WALKERS 2

struct cursor cursors[WALKERS];

static __always_inline struct cgroup_subsys_state *css_of_sibling(struct list_head *link)
{
	return (void *)link - bpf_core_field_offset(struct cgroup_subsys_state, sibling);
}

/*
 * The two below are global functions, which the verifier checks once and not in
 * each round of the loop that calls them: bpf_loop came with 5.17. Up to 5.12
 * they take numbers only.
 */

__noinline int walk_visit(__u64 css, __u32 controller)
{
	struct cgroup_subsys_state *parent;

	if (controller == CONTROLLER_MEMORY)
		refresh_row(CONTROLLER_MEMORY, (void *)css, bpf_ktime_get_ns(), 0, &parent);
	else
		refresh_row(CONTROLLER_PIDS, (void *)css, bpf_ktime_get_ns(), 0, &parent);
	return 0;
}

/*
 * The next cgroup below root: css_next_descendant_pre (kernel/cgroup/cgroup.c)
 * by reads that can't fault. 0 at the end, or when the list is freed under us:
 * the next walk sees the rest.
 */
__noinline __u64 walk_next(__u64 at, __u64 root)
{
	struct cgroup_subsys_state *css = (void *)at;
	struct list_head *next = BPF_CORE_READ(css, children.next);

	if (!next)
		return 0;
	if (next != &css->children)
		return (__u64)css_of_sibling(next);
	for (int depth = 0; depth < 32; depth++) {
		struct cgroup_subsys_state *parent;

		if ((__u64)css == root)
			return 0;
		parent = BPF_CORE_READ(css, parent);
		next = BPF_CORE_READ(css, sibling.next);
		if (!parent || !next)
			return 0;
		if (next != &parent->children)
			return (__u64)css_of_sibling(next);
		css = parent;
	}
	return 0;
}

static __always_inline struct cgroup_subsys_state *root_of(struct cgroup_subsys_state *css)
{
	for (int depth = 0; depth < 32; depth++) {
		struct cgroup_subsys_state *parent = BPF_CORE_READ(css, parent);

		if (!parent)
			break;
		css = parent;
	}
	return css;
}

/*
 * Refreshes the rows of a hierarchy, from its root or from where the walker's
 * last run ended. Returns how many cgroups it saw in the upper half, and in the
 * lower one whether there are more: none too when the cgroup to go on with is
 * gone, which leaves the rest to the next walk. The caller holds the RCU read
 * lock.
 */
static __always_inline __u32 walk_cgroups(enum controller c, struct cgroup_subsys_state *any, struct cursor *cursor,
					  bool begins)
{
	__u64 root = (__u64)root_of(any), css = begins ? root : cursor->css;
	__u32 seen = 0;

	if (!begins && (!css || cgroup_id_of((void *)css) != cursor->cgroup_id))
		css = 0;
	for (int i = 0; i < WALK_CHUNK; i++) {
		if (!css)
			break;
		walk_visit(css, c);
		seen++;
		css = walk_next(css, root);
	}
	cursor->css = css;
	cursor->cgroup_id = css ? cgroup_id_of((void *)css) : 0;
	return seen << 16 | (css != 0);
}

#endif
