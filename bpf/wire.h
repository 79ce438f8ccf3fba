/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Wires: values that the kernel watches. One record per wire and sequence when
 * one is crossed. */
#ifndef EVICT_WIRE_H
#define EVICT_WIRE_H

/* Far away for every purpose, and small enough to add to. */
#define VERY_FAR (1LL << 50)

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_WIRES);
	__type(key, __u32);
	__type(value, struct wire);
} wires SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 * 1024); /* 256 records; each wire and each arming
					   sends one at a time */
	__type(value, struct record);
} crossings SEC(".maps");

/*
 * Who runs the check, for the record: an enum observer, these, and above them the
 * css id of the cgroup that is charged, or else of the task's; 0 from the timer.
 * One word, as a global function takes numbers only up to 5.12.
 */
enum onlooker {
	WHO_OBSERVER = 0xff,
	WHO_IS_ATOMIC = 1 << 8,
	WHO_IS_ANYBODY = 1 << 9, /* the task may be in another cgroup than the one that is charged */
	WHO_IS_BESIDE_CHARGE = 1 << 10, /* the charge hook runs, and sees what is charged sooner */
	WHO_YIELDS = 1 << 11, /* to the charge hook, which knows the culprit */
	WHO_CSS_SHIFT = 32,
};

/* The task of a record is 0 from the timer: its current task means nothing. */
static __always_inline bool send_record(enum record_kind kind, __u32 index, const struct wire *w, __s64 available,
					__u64 task_address, __u64 who)
{
	struct record *r = bpf_ringbuf_reserve(&crossings, sizeof(*r), 0);
	enum controller c = index < MEMORY_WIRES ? CONTROLLER_MEMORY : CONTROLLER_PIDS;
	struct task_struct *task = (void *)task_address;
	__u32 css_id = who >> WHO_CSS_SHIFT;
	struct node_row *n = the_node();
	struct cgroup_row *row;

	if (!r) {
		if (n) {
			__sync_fetch_and_add(&n->lost_samples, 1);
			__sync_fetch_and_add(&n->lost_crossings, 1);
		}
		return false; /* the timer finds the wire still crossed */
	}
	__builtin_memset(r, 0, sizeof(*r));
	r->ns = bpf_ktime_get_ns();
	r->kind = kind;
	r->observer = who & WHO_OBSERVER;
	r->atomic = !!(who & WHO_IS_ATOMIC);
	r->wire = index;
	r->available = available;
	if (w) {
		r->seq = w->seq;
		r->limit = w->limit;
	}
	if (task && (!(who & WHO_IS_ANYBODY) || css_id_of(css_of(task, CONTROLLER_MEMORY)) == css_id)) {
		r->tgid = BPF_CORE_READ(task, tgid);
		r->tid = BPF_CORE_READ(task, pid);
	}
	r->css_id = css_id;
	row = row_of(c, css_id);
	if (row) { /* nobody's, all zero, of css id 0 */
		r->cgroup_id = row->cgroup_id;
		r->usage = row->usage;
	}
	bpf_ringbuf_submit(r, BPF_RB_FORCE_WAKEUP);
	return true;
}

/* What is left below the capacity of a wire's cgroup; false when the cgroup is
 * gone or unknown. */
static __always_inline bool cgroup_available(const struct wire *w, __s64 *available)
{
	enum controller c = w->scope == SCOPE_CGROUP_MEMORY ? CONTROLLER_MEMORY : CONTROLLER_PIDS;
	struct cgroup_subsys_state *css;
	struct cgroup_row *row;
	__s64 used;

	row = row_of(c, w->css_id);
	if (!row)
		return false;
	css = css_of_row(row, w->cgroup_id);
	if (!css)
		return false;
	if (c == CONTROLLER_MEMORY) {
		used = memory_usage(css) - w->inactive_file;
		if (used < 0)
			used = 0; /* the working set is never negative */
	} else {
		used = pids_usage(css);
	}
	*available = w->capacity - used;
	return true;
}

/* How long the timer leaves a crossing to the charge hook: a batch takes 0.1 ms to
 * fill where memory is filled fast, and emulated CPUs ten times that. */
#define YIELD_NS (5 * 1000000ULL)

/* How long a canary's to any hook. A drill asks whether that sees it, and on a busy CPU a
 * canary stands still for longer than a batch takes. */
#define DRILL_YIELD_NS (2000 * 1000000ULL)

static __always_inline __u64 yields_ns(__u32 index, __u64 who)
{
	if ((who & WHO_OBSERVER) == OBSERVER_TIMER && (index == DRILL_MEMORY_WIRE || index == DRILL_TASK_WIRE))
		return DRILL_YIELD_NS;
	return who & WHO_YIELDS ? YIELD_NS : 0;
}

static __always_inline bool is_left_to_hooks(__u32 index, struct wire *w, __u64 who)
{
	__u64 yields = yields_ns(index, who), now;

	if (!yields)
		return false;
	now = bpf_ktime_get_ns();
	if (!w->yielded_ns)
		w->yielded_ns = now;
	return now - w->yielded_ns < yields;
}

/* backstop.h: somebody has to act on a wire that is crossed. */
int backstop_alert(__u32 index, __u32 by);

/*
 * Compares one wire, reports its crossing once per sequence, returns the
 * distance to that, 0 when it is crossed. Two CPUs that cross at the same instant
 * may both report: user space knows the sequence. A global function, which the
 * verifier checks once and not for each wire; task is an address, who an enum
 * onlooker.
 */
__noinline __s64 check_wire(__u32 index, __s64 node_value, __u64 task, __u64 who)
{
	struct wire *w = bpf_map_lookup_elem(&wires, &index);
	const __s64 near_pages = margin_pages - 1; /* just within */
	__s64 available = node_value, distance;
	__u64 seq;

	if (!w || !w->seq)
		return VERY_FAR; /* off */
	seq = w->seq;
	if (w->scope == SCOPE_CGROUP_MEMORY || w->scope == SCOPE_CGROUP_TASKS) {
		if (!cgroup_available(w, &available))
			return VERY_FAR; /* pkg/loader sees it by the row's age */
	}
	distance = available - w->limit + 1; /* at the limit it is not crossed yet */
	if (distance > 0) {
		if (w->yielded_ns)
			w->yielded_ns = 0;
		/* A cgroup's usage comes no nearer but by charges. */
		if (who & WHO_IS_BESIDE_CHARGE && w->scope == SCOPE_CGROUP_MEMORY && distance < near_pages)
			return near_pages;
		return distance;
	}
	if (w->fired != seq && is_left_to_hooks(index, w, who))
		return 0;
	if (w->fired != seq && send_record(RECORD_CROSSING, index, w, available, task, who)) {
		struct node_row *n = the_node();

		w->fired = seq;
		if (n)
			__sync_fetch_and_add(&n->crossings, 1);
	}
	backstop_alert(index, who & WHO_OBSERVER);
	return who & WHO_IS_BESIDE_CHARGE ? near_pages : 0; /* near, and known */
}

/* Returns the pages to the nearest memory wire. */
static __always_inline __s64 check_memory_wires(__u64 task, __u64 who)
{
	struct node_row *n = the_node();
	__s64 nearest = VERY_FAR, available;

	if (!n)
		return nearest;
	available = node_available(n);
	n->updated_ns = bpf_ktime_get_ns();
	for (__u32 i = 0; i < MEMORY_WIRES; i++) {
		__s64 distance;

		if (i >= memory_wires)
			break;
		distance = check_wire(i, available, task, who);
		if (distance < nearest)
			nearest = distance;
	}
	return nearest;
}

/* Returns the tasks to the nearest task wire. */
static __always_inline __s64 check_task_wires(__u64 task, __u64 who)
{
	struct node_row *n = the_node();
	__s64 nearest = VERY_FAR, available;

	if (!n)
		return nearest;
	available = tasks_max - node_tasks(n);
	for (__u32 i = 0; i < TASK_WIRES; i++) {
		__s64 distance;

		if (i >= task_wires)
			break;
		distance = check_wire(MEMORY_WIRES + i, available, task, who);
		if (distance < nearest)
			nearest = distance;
	}
	return nearest;
}

#endif
