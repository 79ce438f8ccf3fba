/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What crosses the border between kernel and user space. bpf2go makes the Go
 * types. */
#ifndef EVICT_SAMPLE_H
#define EVICT_SAMPLE_H

/* Wires 0..15 watch memory, 16..31 tasks: each hook scans its own half. */
#define MEMORY_WIRES 16
#define TASK_WIRES 16
#define MAX_WIRES (MEMORY_WIRES + TASK_WIRES)

/* The last wire of each half is a drill's. */
#define DRILL_MEMORY_WIRE (MEMORY_WIRES - 1)
#define DRILL_TASK_WIRE (MAX_WIRES - 1)

/* css ids are dense, so this is how many cgroups of one hierarchy we can tell
 * apart. */
#define MAX_CGROUPS 16384

/* Intents kept for a start after a crash: more than can be under way at once.
 */
#define MAX_INTENTS 8

enum record_kind {
	RECORD_CROSSING = 1,
	RECORD_ARM = 2,
	RECORD_DELTA = 3,
};

enum observer {
	OBSERVER_ALLOC = 1,
	OBSERVER_TASK = 2,
	OBSERVER_TIMER = 3,
	OBSERVER_CHARGE = 4,
};

enum wire_scope {
	SCOPE_OFF = 0,
	SCOPE_NODE_MEMORY = 1,
	SCOPE_CGROUP_MEMORY = 2,
	SCOPE_NODE_TASKS = 3,
	SCOPE_CGROUP_TASKS = 4,
};

/* A record of either ring buffer. Amounts are pages or tasks. */
struct record {
	__u64 ns; /* CLOCK_MONOTONIC */
	__u64 seq; /* of the wire */
	__s64 available; /* what is left, below the wire's limit */
	__s64 limit; /* the wire's */
	__s64 usage; /* of the cgroup below */
	__u64 cgroup_id; /* that is charged, of the task below, or that moved; 0: not known */
	__u32 css_id;
	__u32 tgid; /* of the task that allocated or forked, in that cgroup; 0: of nobody in it */
	__u32 tid;
	__u8 kind; /* enum record_kind */
	__u8 observer; /* enum observer */
	__u8 wire;
	__u8 atomic; /* the allocation could not sleep: perhaps an interrupt's */
};

/* A value the kernel watches. Written by pkg/loader, seq last; fired by the
 * hooks. */
struct wire {
	__u64 seq; /* armed with; 0: off */
	__u64 fired; /* the last sequence that was reported */
	__u64 claim; /* who acts on a sequence: seq << 2 | enum claim_owner */
	__s64 limit; /* crossed when less than this is available: pages or tasks */
	__s64 capacity; /* cgroup scopes: the cgroup's own limit, pages or tasks */
	__s64 inactive_file; /* SCOPE_CGROUP_MEMORY: pages, from a fresh memory.stat */
	__u64 yielded_ns; /* since when the timer leaves a crossing to the hooks, 0: does not */
	__u64 cgroup_id; /* cgroup scopes: which */
	__u32 css_id; /* cgroup scopes: its row */
	__u32 scope; /* enum wire_scope */
};

enum claim_owner {
	CLAIM_NONE = 0,
	CLAIM_AGENT = 1,
	CLAIM_BPF = 2,
};

/* One cgroup of one hierarchy, at the index of its css id. */
struct cgroup_row {
	__u64 seq; /* odd while it is written */
	__u64 cgroup_id; /* kernfs id, the row's generation; 0: never seen */
	__u64 css; /* address of the controller's state, checked before each use */
	__u64 parent_css; /* its parent's, 0 for the root */
	__s64 usage; /* pages or tasks */
	__s64 inactive_file; /* pages, memory only: up to one rstat flush old */
	__u64 updated_ns; /* CLOCK_MONOTONIC */
	__u64 inactive_ns; /* likewise, of inactive_file */
	__s64 reported; /* usage when the last delta was sent */
	__u32 parent; /* css id, 0 for the root */
	__u32 serial; /* of css, to tell it from a later one at its address */
};

/* The node's counters and our statistics. */
struct node_row {
	__u64 updated_ns; /* CLOCK_MONOTONIC */
	__s64 anon_pages;
	__s64 file_pages;
	__s64 inactive_file_pages;
	__s64 available_pages; /* memory.available */
	__s64 tasks; /* pid_allocated of the initial pid namespace */
	__u64 memory_checks; /* times the wires were compared by the allocation hook */
	__u64 task_checks;
	__u64 ticks; /* of the far timer */
	__u64 crossings;
	__u64 lost_samples; /* no room in a ring buffer */
	__u64 signals_sent; /* to tasks of a condemned cgroup */
	__u64 backstop_signals; /* to tasks of a nominee */
	__u64 backstop_stood_down; /* times the backstop was due and spared the nominee */
	__u64 charges; /* batches that were charged to memory cgroups, as the charge hook saw */
	__u64 foreign_charges; /* of counters that are no memory cgroup's memory: swap, hugetlb, ... */
	__u64 uncharged_ns; /* CLOCK_MONOTONIC when memory that nobody is charged for grew near a wire */
	__u64 lost_crossings; /* of lost_samples: those of wires */
};

/*
 * What the agent is about to do, stored before the SIGKILL, so that a start
 * after a crash can still write the journal line.
 */
struct intent {
	__u8 id[16]; /* ULID of the eviction */
	__u64 ns; /* CLOCK_MONOTONIC of the crossing */
	__u64 wall_ns; /* CLOCK_REALTIME when it was stored */
	__u64 memory_id;
	__u64 pids_id;
	__u64 seq;
	__u64 signalled_ns; /* CLOCK_MONOTONIC of the backstop's SIGKILL, 0: not by it */
	__s64 available; /* bytes or tasks; of a kill by the backstop pages or tasks */
	__s64 threshold_value; /* bytes or tasks */
	__s64 capacity; /* bytes or tasks */
	__s64 pids_max_before; /* of the unit that the agent keeps from forking, 0: of none */
	__u32 state; /* enum intent_state, written last */
	__u32 by_backstop;
	char signal[32];
	char uid[256];
	char cgroup[256];
};

enum intent_state {
	INTENT_FREE = 0,
	INTENT_STORED = 1,
	INTENT_SIGNALLED = 2,
	INTENT_NOMINEE = 3, /* nobody has acted; the backstop may */
};

/* A cgroup that is being killed: its tasks get SIGKILL when they allocate or
 * fork. */
struct condemned {
	__u64 memory_id;
	__u64 pids_id;
};

#define MAX_CONDEMNED 2

/* Processes of a nominee that are known by number; its others are hit in the
 * hooks. */
#define MAX_LEADS 8

/* Units that are compared one by one with a nominee; the others by their sum.
 */
#define MAX_RIVALS 32

/* A process by more than its number, which may be another's by now. */
struct lead {
	__u64 start_ticks; /* field 22 of /proc/PID/stat: 1/100 s since the boot */
	__u32 tgid;
	__u32 _pad;
};

/* A unit that would be evicted instead of the nominee if it grew. */
struct rival {
	__u64 cgroup_id;
	__s64 use; /* pages or tasks, when the nominee was named */
	__s64 growth; /* the most it may grow */
	__u32 css_id;
	__u32 relative; /* the nominee's own growth comes on top */
};

/* Whom the backstop may kill for a wire. Written by pkg/loader while there is
 * no licence. */
struct nominee {
	__u64 memory_id, pids_id; /* the cgroup that is killed; 0: not in that hierarchy */
	__u64 unit_id; /* the unit, by which it was ranked, in the wire's hierarchy */
	__s64 use; /* of the unit, pages or tasks, when it was named */
	__s64 least; /* with less it is not the one any more */
	__s64 available; /* of the wire, pages or tasks, when it was named */
	__s64 others; /* the most that whoever is no rival may have grown, together */
	__u32 unit_css;
	__u32 ready; /* 0: no nominee */
	__u32 used_leads, used_rivals;
	struct lead leads[MAX_LEADS];
	struct rival rivals[MAX_RIVALS];
};

/*
 * The licence to kill one nominee, of whichever wire: CLOCK_MONOTONIC at which
 * it ends, or one of these. Only who moved it away from a time by
 * compare-and-swap may kill.
 */
enum licence {
	LICENCE_NONE = 0, /* the agent acts, or nobody may */
	LICENCE_HUNTING = 1, /* BPF has it and could not reach the nominee yet */
	LICENCE_STRIKING = 2, /* a CPU is at it right now, and reads the nominee */
	LICENCE_SPENT = 3, /* BPF has killed; the agent has to take note */
	LICENCE_MARKS = 15,
};

struct backstop {
	__u64 licence; /* enum licence, or a time */
	__u64 grace_ns; /* between the crossing and the kill: the agent's time */
	__u64 alerted; /* the licence under which a crossing was seen last */
	__u64 alert_seq; /* of its wire */
	__u64 alert_ns; /* CLOCK_MONOTONIC */
	__u32 alert_wire;
	__u32 alert_by; /* enum observer */
	/* The same once BPF has the licence, and what became of it. */
	__u64 seq;
	__u64 crossed_ns;
	__u64 expires_ns; /* the licence, once BPF has it */
	__u64 next_try_ns;
	__u64 quiet_ns; /* no alert before: it stood down just now */
	__u64 signalled_ns; /* of the first SIGKILL */
	__s64 available; /* pages or tasks */
	__s64 use; /* the nominee's at that look */
	__u32 wire;
	__u32 by;
	__u32 done_leads; /* a bit for each */
	__u32 tries;
};

#endif
