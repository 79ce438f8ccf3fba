/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The backstop: when a wire is crossed and the agent does not act within a grace
 * period, BPF kills the nominee, the unit that the agent would have evicted. One
 * licence for all wires, renewed by each healthy pass of the agent, lets it do so
 * once. In doubt it kills nobody.
 *
 *   a wire is crossed ── backstop_alert ── grace ── backstop_hunt ─┬─ SIGKILL
 *                                                       ▲          └─ stands down
 *                          50 µs later, or the next hook┘ out of reach
 */
#ifndef EVICT_BACKSTOP_H
#define EVICT_BACKSTOP_H

/*
 * bpf_send_signal_task needs a current task that is a user's, and one signal at
 * a time on a CPU (-EPERM, -EBUSY; kernel/trace/bpf_trace.c, v6.18): so often at
 * short notice, then slower, for as long as the licence is.
 */
#define RETRY_NS 50000
#define QUICK_RETRIES 40
#define SLOW_RETRY_NS (1 * MS)

/* A backstop that stood down looks again no sooner: it compares every rival. */
#define QUIET_NS (1 * MS)

/* Nanoseconds of a tick of /proc/PID/stat: USER_HZ is 100 (include/asm-generic/param.h). */
#define TICK_NS 10000000

/* A section of its own, so that user space maps it. */
struct backstop backstop SEC(".data.backstop");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_WIRES);
	__type(key, __u32);
	__type(value, struct nominee);
} nominees SEC(".maps");

/* The agent's intents, and behind them each wire's nominee, marked here when it
 * was killed: what a start after a crash needs for the journal. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_INTENTS + MAX_WIRES);
	__type(key, __u32);
	__type(value, struct intent);
} intents SEC(".maps");

struct backstop_timer {
	struct bpf_timer timer;
};

/*
 * Two that take turns. A timer that its own callback starts again stays on its
 * CPU, and where that is idle no signal can be sent from it; another one is put
 * where something runs.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct backstop_timer);
} backstop_timers SEC(".maps");

/*
 * One on each CPU: whom a timer can hit depends on what its CPU runs, and the one
 * that saw the crossing may by then be on an idle CPU, next to the hog's. A timer
 * that its own callback starts again stays on its CPU.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* pkg/loader sets it to possible_cpus */
	__type(key, __u32);
	__type(value, struct backstop_timer);
} lookouts SEC(".maps");

/* How long the lookouts may sleep. Written by the far timer. */
__s64 lookout_ns = MIN_FAR_TICK_NS;

static __always_inline bool can_reach_tasks(void)
{
	return bpf_send_signal_task && bpf_task_from_pid && bpf_task_release;
}

/* Global functions, as most below, which the verifier checks once and not at each
 * call. css is an address. */
__noinline int is_in_cgroup(__u64 address, __u64 cgroup_id)
{
	struct cgroup_subsys_state *css = (void *)address;

	for (int depth = 0; depth < MAX_DEPTH; depth++) {
		if (!css)
			break;
		if (cgroup_id_of(css) == cgroup_id)
			return true;
		css = BPF_CORE_READ(css, parent);
	}
	return false;
}

/* In both hierarchies, where the nominee is in both. */
static __always_inline bool is_in_nominee(struct task_struct *task, const struct nominee *n)
{
	__u64 memory_id = n->memory_id, pids_id = n->pids_id;

	if (memory_id && !is_in_cgroup((__u64)css_of(task, CONTROLLER_MEMORY), memory_id))
		return false;
	if (pids_id && !is_in_cgroup((__u64)css_of(task, CONTROLLER_PIDS), pids_id))
		return false;
	return memory_id || pids_id;
}

static __always_inline bool is_memory_wire(__u32 index)
{
	return index < MEMORY_WIRES;
}

/* What a unit counts for in a ranking: its working set or its tasks. Negative when
 * it is gone. */
__noinline __s64 use_of(__u32 memory, __u32 css_id, __u64 cgroup_id)
{
	struct cgroup_row *row = row_of(memory ? CONTROLLER_MEMORY : CONTROLLER_PIDS, css_id);
	struct cgroup_subsys_state *css = row ? css_of_row(row, cgroup_id) : NULL;
	__s64 use;

	if (!css)
		return -1;
	use = memory ? memory_usage(css) - memory_inactive_file(css) : pids_usage(css);
	return use > 0 ? use : 0;
}

/* What is available now of what a wire watches. */
static __always_inline bool wire_available(const struct wire *w, __s64 *available)
{
	struct node_row *n = the_node();
	struct cgroup_row *row;
	struct cgroup_subsys_state *css;
	__s64 inactive;

	if (!n)
		return false;
	switch (w->scope) {
	case SCOPE_NODE_MEMORY:
		*available = node_available(n);
		return true;
	case SCOPE_NODE_TASKS:
		*available = tasks_max - node_tasks(n);
		return true;
	}
	if (!cgroup_available(w, available))
		return false;
	if (w->scope != SCOPE_CGROUP_MEMORY)
		return true;
	/* The wire's inactive file is as old as the agent's last look. */
	row = row_of(CONTROLLER_MEMORY, w->css_id);
	css = row ? css_of_row(row, w->cgroup_id) : NULL;
	if (!css)
		return false;
	inactive = memory_inactive_file(css);
	if (inactive > w->inactive_file)
		*available += inactive - w->inactive_file;
	return true;
}

/*
 * Looks again: is the wire still crossed, has nobody acted on it, and would the
 * agent still choose the nominee? The caller strikes, so the nominee stays.
 */
__noinline int backstop_is_due(__u32 index)
{
	struct nominee *n = bpf_map_lookup_elem(&nominees, &index);
	struct wire *w = bpf_map_lookup_elem(&wires, &index);
	bool memory = is_memory_wire(index);
	__s64 available = 0, use, grown, others;
	__u64 claim;

	if (!n || !w || !n->ready || !w->seq || w->seq != backstop.seq)
		return 0;
	claim = w->claim;
	if (claim >> 2 > w->seq || (claim >> 2 == w->seq && claim & 3))
		return 0; /* somebody has acted on this crossing */
	if (!wire_available(w, &available) || available >= w->limit)
		return 0; /* over, or its cgroup is gone */
	backstop.available = available;
	use = use_of(memory, n->unit_css, n->unit_id);
	if (use < 0 || use < n->least)
		return 0; /* gone, or shrunk */
	backstop.use = use;
	grown = use - n->use;
	others = n->available - available - grown;
	for (__u32 i = 0; i < MAX_RIVALS; i++) {
		const struct rival *r = &n->rivals[i];
		__s64 growth;

		if (i >= n->used_rivals)
			break;
		use = use_of(memory, r->css_id, r->cgroup_id);
		if (use < 0)
			use = 0; /* gone */
		growth = use - r->use;
		others -= growth;
		if (r->relative)
			growth -= grown;
		if (growth > r->growth)
			return 0; /* it may be the one by now */
	}
	if (grown < 0)
		others -= grown;
	return others <= n->others;
}

enum struck {
	STRUCK_NEVER = -1, /* gone, or another's number by now */
	STRUCK_LATER = 0, /* out of reach from here */
	STRUCK = 1,
};

/* Sends SIGKILL to one of the nominee's processes, if it is still that process
 * and still there. */
__noinline int backstop_strike_lead(__u32 index, __u32 i)
{
	struct nominee *n = bpf_map_lookup_elem(&nominees, &index);
	struct task_struct *task;
	int struck = STRUCK_NEVER;

	if (!can_reach_tasks())
		return STRUCK_NEVER;
	if (!n || i >= MAX_LEADS)
		return STRUCK_NEVER;
	task = bpf_task_from_pid(n->leads[i].tgid);
	if (!task)
		return STRUCK_NEVER;
	if (BPF_CORE_READ(task, start_boottime) / TICK_NS == n->leads[i].start_ticks &&
	    BPF_CORE_READ(task, signal, live.counter) > 0 && is_in_nominee(task, n))
		struck = bpf_send_signal_task(task, SIGKILL, PIDTYPE_TGID, 0) ? STRUCK_LATER : STRUCK;
	bpf_task_release(task);
	return struck;
}

/* Sends SIGKILL to whom of the nominee it can reach. Returns how many, shifted, and
 * in bit 0 whether some are left to be tried again. */
__noinline int backstop_strike(__u32 index)
{
	struct nominee *n = bpf_map_lookup_elem(&nominees, &index);
	bool later = false;
	int sent = 0;

	if (!n)
		return 0; /* never: the caller has found it */
	if (is_in_nominee((void *)bpf_get_current_task(), n) && !bpf_send_signal(SIGKILL))
		sent++;
	if (!can_reach_tasks())
		return sent << 1; /* the others die where they run, allocate or fork */
	for (__u32 i = 0; i < MAX_LEADS; i++) {
		int struck;

		if (i >= n->used_leads)
			break;
		if (backstop.done_leads & (1U << i))
			continue;
		struck = backstop_strike_lead(index, i);
		if (struck == STRUCK_LATER) {
			later = true;
			continue;
		}
		backstop.done_leads |= 1U << i;
		if (struck == STRUCK)
			sent++;
	}
	return sent << 1 | later;
}

/* Leaves a trace for the journal, whatever becomes of the agent. */
static __always_inline void note_kill(__u32 index)
{
	__u32 slot = MAX_INTENTS + index;
	struct intent *in = bpf_map_lookup_elem(&intents, &slot);

	backstop.signalled_ns = bpf_ktime_get_ns();
	if (!in)
		return; /* never: there is one for each wire */
	in->ns = backstop.crossed_ns;
	in->seq = backstop.seq;
	in->available = backstop.available;
	in->signalled_ns = backstop.signalled_ns;
	__sync_lock_test_and_set(&in->state, INTENT_SIGNALLED); /* after the rest */
}

static __always_inline void set_licence(__u64 licence)
{
	__sync_lock_test_and_set(&backstop.licence, licence); /* after the rest */
}

static __always_inline void stand_down(__u64 now)
{
	struct node_row *n = the_node();

	if (n)
		__sync_fetch_and_add(&n->backstop_stood_down, 1);
	backstop.quiet_ns = now + QUIET_NS;
	backstop.alerted = 0;
	set_licence(backstop.expires_ns);
}

/*
 * Takes the licence and kills the nominee, or goes on with a hunt. Returns after
 * how many nanoseconds to try again, 0: not at all.
 */
__noinline int backstop_hunt(void)
{
	__u64 licence = backstop.licence, now = bpf_ktime_get_ns(), claim;
	bool spent = licence == LICENCE_SPENT, later = false;
	struct nominee *n;
	struct node_row *node;
	struct wire *w;
	__u32 index;
	int sent;

	if (licence == LICENCE_STRIKING)
		return RETRY_NS; /* another CPU is at it */
	if (licence == LICENCE_NONE)
		return 0; /* the agent acts, or was healthy meanwhile */
	if (licence > LICENCE_MARKS && (licence != backstop.alerted || now >= licence))
		return 0; /* renewed since the crossing was seen, or at its end */
	if (licence > LICENCE_MARKS && now < backstop.alert_ns + backstop.grace_ns)
		return 0; /* a timer of an earlier hunt: it is not yet time */
	if (__sync_val_compare_and_swap(&backstop.licence, licence, LICENCE_STRIKING) != licence)
		return RETRY_NS;

	/* From here to set_licence the agent leaves the nominee and this alone. */
	if (licence > LICENCE_MARKS) {
		backstop.wire = backstop.alert_wire;
		backstop.seq = backstop.alert_seq;
		backstop.crossed_ns = backstop.alert_ns;
		backstop.by = backstop.alert_by;
		backstop.expires_ns = licence;
		backstop.done_leads = 0;
		backstop.tries = 0;
		backstop.signalled_ns = 0;
	}
	index = backstop.wire;
	n = bpf_map_lookup_elem(&nominees, &index);
	w = bpf_map_lookup_elem(&wires, &index);
	if (now >= backstop.expires_ns || !n || !w) {
		set_licence(spent ? LICENCE_SPENT : LICENCE_NONE);
		return 0;
	}
	claim = w->claim;
	if (!spent && (!backstop_is_due(index) ||
		       __sync_val_compare_and_swap(&w->claim, claim, backstop.seq << 2 | CLAIM_BPF) != claim)) {
		stand_down(now);
		return 0;
	}
	sent = backstop_strike(index);
	later = sent & 1;
	sent >>= 1;
	if (sent && !spent)
		note_kill(index);
	if (!sent && !spent)
		w->claim = backstop.seq << 2; /* nobody else takes it while we strike */
	node = the_node();
	if (node && sent)
		__sync_fetch_and_add(&node->backstop_signals, sent);
	backstop.next_try_ns = now + RETRY_NS;
	set_licence(spent || sent ? LICENCE_SPENT : LICENCE_HUNTING);
	if (!later)
		return 0;
	return backstop.tries++ < QUICK_RETRIES ? RETRY_NS : SLOW_RETRY_NS;
}

static int backstop_tick(void *map, __u32 *key, struct backstop_timer *t);

static __always_inline void start_backstop_timer(__u32 key, __u64 ns)
{
	struct backstop_timer *t = bpf_map_lookup_elem(&backstop_timers, &key);

	if (t)
		bpf_timer_start(&t->timer, ns, 0);
}

static int backstop_tick(void *map, __u32 *key, struct backstop_timer *t)
{
	__u32 other = *key == 0;
	int wait = backstop_hunt();

	if (wait > 0)
		start_backstop_timer(other, wait);
	return 0;
}

/* Before a hook runs: a timer's first use allocates. */
static __always_inline int init_backstop_timer(__u32 *key)
{
	struct backstop_timer *t = bpf_map_lookup_elem(&backstop_timers, key);
	int err;

	if (!t)
		return -1; /* never: there are two */
	err = bpf_timer_init(&t->timer, &backstop_timers, CLOCK_MONOTONIC);
	return err ? err : bpf_timer_set_callback(&t->timer, backstop_tick);
}

/*
 * Says that a wire is crossed, by whoever sees it, each time. The first one under
 * a licence starts the grace period: a pass of the agent within it renews the
 * licence or takes it away.
 */
__noinline int backstop_alert(__u32 index, __u32 by)
{
	__u64 licence = backstop.licence, alerted = backstop.alerted, now;
	struct nominee *n;
	struct wire *w;
	__u64 wait;

	if (licence <= LICENCE_MARKS || licence == alerted)
		return 0; /* nobody may kill, or the grace runs */
	now = bpf_ktime_get_ns();
	if (now >= licence || now < backstop.quiet_ns)
		return 0;
	n = bpf_map_lookup_elem(&nominees, &index);
	w = bpf_map_lookup_elem(&wires, &index);
	if (!n || !w || !n->ready)
		return 0;
	if (__sync_val_compare_and_swap(&backstop.alerted, alerted, licence) != alerted)
		return 0; /* another CPU, or another wire */
	backstop.alert_wire = index;
	backstop.alert_seq = w->seq;
	backstop.alert_ns = now;
	backstop.alert_by = by;
	wait = backstop.grace_ns;
	if (!wait)
		wait = backstop_hunt();
	if (wait)
		start_backstop_timer(0, wait);
	return 0;
}

/* BPF has the licence: the nominee's tasks die in the hooks. */
static __always_inline bool backstop_hunts(void)
{
	return backstop.licence == LICENCE_HUNTING || backstop.licence == LICENCE_SPENT;
}

/* Goes on with a hunt from a hook: a task of the nominee can be hit here on every
 * kernel, and from a task's context its processes too. */
static __noinline int backstop_ambush(void)
{
	__u32 index = backstop.wire;
	struct nominee *n = bpf_map_lookup_elem(&nominees, &index);

	if (!n)
		return 0; /* never: there is one for each wire */
	if (!is_in_nominee((void *)bpf_get_current_task(), n) &&
	    (!can_reach_tasks() || backstop.licence == LICENCE_SPENT || bpf_ktime_get_ns() < backstop.next_try_ns))
		return 0;
	return backstop_hunt();
}

/* A crossing was seen under the licence there is, and the agent has not acted. */
static __always_inline bool backstop_alerted(void)
{
	return backstop.licence > LICENCE_MARKS && backstop.licence == backstop.alerted;
}

static int lookout_tick(void *map, __u32 *cpu, struct backstop_timer *t)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__s64 next_ns = READ_ONCE(lookout_ns);

	if (BPF_CORE_READ(task, mm)) { /* from elsewhere no signal can be sent */
		if (backstop_alerted())
			backstop_hunt();
		else if (backstop_hunts())
			backstop_ambush();
		if (backstop_alerted() || backstop.licence == LICENCE_HUNTING)
			next_ns = MIN_BRIDGE_NS;
	}
	bpf_timer_start(&t->timer, next_ns, 0);
	return 0;
}

#endif
