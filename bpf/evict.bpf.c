// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// Finds the allocation that takes memory below a wire and the fork that takes
// the tasks below one, in the moment it happens, and keeps the counters that
// say who to blame.
//
//   page_counter_try_charge (fentry)   always attached, where the kernel allows it
//   kmem:mm_page_alloc   attached while a memory wire is near; beside the charge
//                        hook only while memory grows that nobody is charged for
//   task:task_newtask    always attached
//   bpf_timer            compares all wires while the allocation hook is off; and
//                        kills in the place of an agent that does not
//   raw_tp, test run     look, walk, refresh, learn: user space asks for a
//                        reading; tick: it stands in for the timer
//
// Reading order: sample.h (what is sent), node.h and table.h (what is read),
// wire.h (what is compared), far.h (when the timer looks), condemned.h (who
// gets SIGKILL), backstop.h (who gets it when the agent does not act), charge.h
// (whose memory is charged), then the programs below.

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "sample.h"

/* CPUs that may allocate at once. Set by pkg/loader before load. */
const volatile __u32 possible_cpus = 1;

/* NUMA node ids that may come into use, highest plus one. Set by pkg/loader
 * before load. */
const volatile __s32 numa_ids = 1;

/* A cgroup's usage is reported when it moved by this many pages. Set before
 * load. */
const volatile __s64 delta_pages = 2048;

/* The fastest that this machine can fill memory, in pages a second. Set before
 * load. */
const volatile __s64 max_fill_pages_per_second = 1;

/* Nearer than this the allocation hook must be attached. Set before load. */
const volatile __s64 margin_pages = 1;

/* How many of each half of the wires are in use. Written by pkg/loader. */
__u32 memory_wires;
__u32 task_wires;

#include "node.h"
#include "table.h"
#include "wire.h"
#include "far.h"
#include "condemned.h"
#include "backstop.h"
#include "charge.h"

/* A check is worth at most so many pages or forks of credit, however far the
 * wire: a wire that user space moves nearer is seen after that many. */
#define MAX_PAGE_CREDIT 256
#define MAX_FORK_CREDIT 16

/* Counts the attachings and detachings of the allocation hook: odd while it is
 * attached. Written by pkg/loader. */
__u32 allocation_hook_turns;

/* The turn in which the hook ran last. A run that began before a detaching and
 * ends after it so can't be taken for one of an attached hook. */
__u32 allocation_hook_seen;

static __always_inline bool is_hook_seen(void)
{
	__u32 turn = allocation_hook_turns;

	return turn & 1 && allocation_hook_seen == turn;
}

struct credit {
	__s64 pages;
	__s64 forks;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct credit);
} credits SEC(".maps");

static __always_inline struct credit *this_cpu_credit(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&credits, &zero);
}

/* All CPUs together may use up half the distance before one of them looks
 * again. */
static __always_inline __s64 credit_for(__s64 distance, __s64 most)
{
	__s64 share = (__u64)distance / (2 * possible_cpus); /* a distance is never negative */

	if (share > most)
		return most;
	return share > 1 ? share : 1;
}

/* The address that a hook has as its first argument, as a number: what the verifier
 * knows as a pointer, it passes to no global function. */
static __always_inline __u64 first_arg(__u64 *ctx)
{
	__u64 address = 0;

	bpf_probe_read_kernel(&address, sizeof(address), ctx);
	return address;
}

SEC("tp_btf/mm_page_alloc")
int BPF_PROG(page_alloc, struct page *page, unsigned int order, unsigned int gfp)
{
	struct credit *credit = this_cpu_credit();
	struct cgroup_subsys_state *css;
	__u64 task, who = OBSERVER_ALLOC;
	struct node_row *n;

	if (anyone_condemned())
		kill_if_condemned(CONTROLLER_MEMORY);
	if (backstop_hunts())
		backstop_ambush();
	if (!credit)
		return 0; /* never: index 0 exists */
	credit->pages -= 1LL << (order & 31);
	if (credit->pages > 0)
		return 0; /* the wires are farther than what was allocated since the last
			     look */

	allocation_hook_seen = allocation_hook_turns;
	task = bpf_get_current_task();
	css = css_of((void *)task, CONTROLLER_MEMORY);
	refresh_memory_path(css, OBSERVER_ALLOC);
	if (!(gfp & GFP_MAY_SLEEP))
		who |= WHO_IS_ATOMIC;
	who |= (__u64)css_id_of(css) << WHO_CSS_SHIFT;
	credit->pages = credit_for(check_memory_wires(task, who), MAX_PAGE_CREDIT);
	n = the_node();
	if (n)
		__sync_fetch_and_add(&n->memory_checks, 1);
	return 0;
}

/*
 * One event for each batch of 64 pages, or a large page, before the counters
 * move and before there are pages. What is compared is what is, without the
 * batch, which may yet be refused: so a crossing is never reported before it is
 * one, and at the latest by the next batch of whomever.
 */
SEC("fentry/page_counter_try_charge")
int BPF_PROG(page_charge)
{
	struct cgroup_subsys_state *css = css_of_counter((void *)first_arg(ctx));
	/* khugepaged, a remote write, a swap-in: current may be anybody */
	__u64 who = OBSERVER_CHARGE | WHO_IS_ANYBODY;
	struct node_row *n = the_node();

	if (anyone_condemned())
		kill_if_condemned(CONTROLLER_MEMORY);
	if (backstop_hunts())
		backstop_ambush();
	if (!n)
		return 0; /* never: index 0 exists */
	if (!css) {
		__sync_fetch_and_add(&n->foreign_charges, 1);
		return 0; /* another kind of counter */
	}
	refresh_memory_path(css, OBSERVER_CHARGE);
	who |= (__u64)css_id_of(css) << WHO_CSS_SHIFT;
	check_memory_wires(bpf_get_current_task(), who);
	__sync_fetch_and_add(&n->charges, 1);
	return 0;
}

SEC("tp_btf/task_newtask")
int BPF_PROG(newtask, struct task_struct *child)
{
	struct credit *credit = this_cpu_credit();
	__u64 task, who = OBSERVER_TASK;
	struct cgroup_subsys_state *css;
	struct node_row *n;

	if (anyone_condemned())
		kill_if_condemned(CONTROLLER_PIDS);
	if (backstop_hunts())
		backstop_ambush();
	if (!credit)
		return 0; /* never: index 0 exists */
	if (--credit->forks > 0)
		return 0; /* the wires are farther than what was forked since the last look
			   */

	task = bpf_get_current_task();
	css = css_of(child, CONTROLLER_PIDS);
	if (css_of((void *)task, CONTROLLER_PIDS) != css)
		task = first_arg(ctx); /* put there by clone3: its parent is elsewhere */
	refresh_pids_path(css);
	who |= (__u64)css_id_of(css) << WHO_CSS_SHIFT;
	credit->forks = credit_for(check_task_wires(task, who), MAX_FORK_CREDIT);
	n = the_node();
	if (n)
		__sync_fetch_and_add(&n->task_checks, 1);
	return 0;
}

/* When the allocation hook was asked for last, CLOCK_MONOTONIC. */
__u64 asked_ns;

/* What was not charged at the last look, pages: see uncharged_grows. */
__s64 uncharged_pages;

/* Whether the far timer looks beside the charge hook, and yields to it: the flags of
 * enum onlooker. A global function, lest the verifier follow each answer through all
 * wires. */
__noinline __u64 far_beside(void)
{
	struct node_row *n = the_node();

	if (!charge_hook)
		return 0;
	if (n && uncharged_grows(n, &uncharged_pages))
		return WHO_IS_BESIDE_CHARGE;
	return WHO_IS_BESIDE_CHARGE | WHO_YIELDS;
}

/* Compares all wires, and asks for the allocation hook if that is due. Returns
 * after how many nanoseconds to look again. */
static __always_inline __s64 look_from_far(void)
{
	const __u64 who = OBSERVER_TIMER | WHO_IS_ATOMIC;
	__u64 beside = far_beside(), now;
	struct node_row *n = the_node();
	struct far_view view = {};
	struct far_plan plan;
	__s64 distance;

	distance = check_memory_wires(0, who | beside);
	now = bpf_ktime_get_ns();
	view.hook_seen = is_hook_seen();
	view.charge_hook = beside & WHO_IS_BESIDE_CHARGE;
	view.uncharged = view.charge_hook && !(beside & WHO_YIELDS);
	view.asked_ns_ago = now - asked_ns;
	plan = plan_far_tick(distance, &view);
	if (n && view.uncharged && distance < margin_pages)
		n->uncharged_ns = now;
	check_task_wires(0, who);
	if (n)
		__sync_fetch_and_add(&n->ticks, 1);
	WRITE_ONCE(lookout_ns, plan.next_ns > BRIDGE_NS ? plan.next_ns : BRIDGE_NS);
	if (plan.ask && send_record(RECORD_ARM, 0, NULL, distance, 0, who))
		asked_ns = now;
	return plan.next_ns;
}

struct far_timer {
	struct bpf_timer timer;
	__u64 due_ns; /* when it looks next */
	__u32 placed; /* counts the placings of wires, each of which wants a look */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct far_timer);
} far_timers SEC(".maps");

static __always_inline int start_bridge(struct far_timer *t, __u64 now)
{
	WRITE_ONCE(t->due_ns, now + BRIDGE_NS);
	return bpf_timer_start(&t->timer, BRIDGE_NS, 0);
}

static int far_tick(void *map, __u32 *key, struct far_timer *t)
{
	__u32 placed = READ_ONCE(t->placed);
	__s64 next_ns = look_from_far();
	__u64 now = bpf_ktime_get_ns();

	WRITE_ONCE(t->due_ns, now + next_ns);
	bpf_timer_start(&t->timer, next_ns, 0);
	/* What was placed behind our look has started the timer before we did. */
	if (placed != READ_ONCE(t->placed))
		start_bridge(t, now);
	return 0;
}

/* Starts the far timer, or has it look at once: a wire that was moved may be
 * nearer than the tick that is due. It ends when user space's last reference to
 * its map is gone. */
SEC("syscall")
int start_far_timer(void *ctx)
{
	__u32 zero = 0;
	struct far_timer *t = bpf_map_lookup_elem(&far_timers, &zero);
	__u64 now = bpf_ktime_get_ns();
	int err;

	if (!t)
		return -1; /* never: index 0 exists */
	__sync_fetch_and_add(&t->placed, 1);
	err = bpf_timer_init(&t->timer, &far_timers, CLOCK_MONOTONIC);
	if (!err)
		bpf_timer_set_callback(&t->timer, far_tick);
	else if (err != -EBUSY)
		return err;
	else if (READ_ONCE(t->due_ns) - now <= BRIDGE_NS)
		return 0; /* it looks as soon by itself: who asks all the time must not put it off */
	return start_bridge(t, now);
}

/* Prepares the backstop's timers; run once. */
SEC("syscall")
int init_backstop(void *ctx)
{
	__u32 first = 0, second = 1;
	int err = init_backstop_timer(&first);

	return err ? err : init_backstop_timer(&second);
}

/* Starts the lookout of the CPU ctx[0], on which user space runs this. */
SEC("syscall")
int start_lookout(__u64 *ctx)
{
	__u32 cpu = ctx[0];
	struct backstop_timer *t = bpf_map_lookup_elem(&lookouts, &cpu);
	int err;

	if (!t)
		return -1; /* never: there is one for each CPU */
	err = bpf_timer_init(&t->timer, &lookouts, CLOCK_MONOTONIC);
	if (!err || err == -EBUSY) /* it was before: the rest may be done again */
		err = bpf_timer_set_callback(&t->timer, lookout_tick);
	return err ? err : bpf_timer_start(&t->timer, MIN_FAR_TICK_NS, 0);
}

/* The programs below are never attached: user space runs them by
 * BPF_PROG_TEST_RUN. A raw_tp run holds the RCU read lock, from 5.10 on. */

/* The far tick where there is no bpf_timer: user space runs it when it is due.
 * Returns after how many nanoseconds it is due again, below 2^31. */
SEC("raw_tp")
int tick(void *ctx)
{
	return look_from_far();
}

/* Finds the node's counters; again when MemTotal has changed, as the memory may
 * be on a new NUMA node. */
SEC("raw_tp")
int learn(void *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct cgroup_subsys_state *css = css_of(task, CONTROLLER_MEMORY);
	bool found = learn_node(task, css);

	learn_memory_controller(css);
	look_at_node();
	return found ? 0 : -1;
}

/* Reads the node's counters now. */
SEC("raw_tp")
int look(void *ctx)
{
	look_at_node();
	return 0;
}

static __always_inline bool refresh_if(enum controller c, __u32 css_id, __u64 cgroup_id)
{
	struct cgroup_row *row = row_of(c, css_id);
	struct cgroup_subsys_state *css = row ? css_of_row(row, cgroup_id) : NULL, *parent;

	if (css)
		refresh_row(c, css, bpf_ktime_get_ns(), 0, &parent);
	return css;
}

/* Reads a cgroup's counters now: its row of memory is at at[0] if it is still cgroup
 * at[1], that of pids at at[2] if it is still at[3]. Returns which are, a bit for each
 * controller. */
static __always_inline int refresh_rows(__u64 *at)
{
	__u64 memory_id = at[1], pids_id = at[3];
	int fresh = 0;

	if (memory_id && refresh_if(CONTROLLER_MEMORY, at[0], memory_id))
		fresh |= 1 << CONTROLLER_MEMORY;
	if (pids_id && refresh_if(CONTROLLER_PIDS, at[2], pids_id))
		fresh |= 1 << CONTROLLER_PIDS;
	return fresh;
}

/* Reads the node's counters and those of two cgroups, ctx[0] to ctx[3] and from
 * ctx[4] on. Returns which of the first one's were read. */
SEC("raw_tp")
int refresh(__u64 *ctx)
{
	int fresh;

	look_at_node();
	fresh = refresh_rows(ctx);
	refresh_rows(ctx + 4);
	return fresh;
}

/* Says what the far timer does at a distance of ctx[0] pages, with what
 * enum far_flag of ctx[1] names, ctx[2] ns after its last ask: the length of the
 * next tick in ns, which is below a second, and FAR_ASKS. */
SEC("raw_tp")
int plan_tick(__u64 *ctx)
{
	struct far_view view = {
		.hook_seen = ctx[1] & FAR_HOOK_SEEN,
		.charge_hook = ctx[1] & FAR_CHARGE_HOOK,
		.uncharged = ctx[1] & FAR_UNCHARGED,
		.asked_ns_ago = ctx[2],
	};
	struct far_plan plan = plan_far_tick(ctx[0], &view);

	return plan.next_ns | (plan.ask ? FAR_ASKS : 0);
}

/* What the charge hook makes of a counter that lies ctx[2] bytes behind the memory
 * counter of the cgroup ctx[1] at row ctx[0]: the css id of whom it is, 0 of
 * nobody. For tests. */
SEC("raw_tp")
int resolve(__u64 *ctx)
{
	__u32 css_id = ctx[0];
	struct cgroup_row *row = row_of(CONTROLLER_MEMORY, css_id);
	struct cgroup_subsys_state *css = row ? css_of_row(row, ctx[1]) : NULL;
	struct page_counter *counter;

	if (!css)
		return -1;
	counter = (void *)memcg_of(css) + bpf_core_field_offset(struct mem_cgroup, memory) + ctx[2];
	css = css_of_counter(counter);
	return css ? BPF_CORE_READ(css, id) : 0;
}

/* Refreshes rows of controller ctx[0] for walker ctx[1], from the root on if
 * ctx[2] is not 0. Returns what walk_cgroups does. */
SEC("raw_tp")
int walk(__u64 *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	__u64 walker = ctx[1];
	bool begins = ctx[2] != 0;

	if (walker >= WALKERS)
		return 0;
	if (ctx[0] == CONTROLLER_MEMORY)
		return walk_cgroups(CONTROLLER_MEMORY, css_of(task, CONTROLLER_MEMORY), &cursors[walker], begins);
	return walk_cgroups(CONTROLLER_PIDS, css_of(task, CONTROLLER_PIDS), &cursors[walker], begins);
}

char LICENSE[] SEC("license") = "GPL";
