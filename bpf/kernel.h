/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The kernel's types, only the fields we read. CO-RE finds their offsets when
 * the object is loaded, so this stands in for a generated vmlinux.h of three
 * megabytes. Fields checked against the BTF of 5.10, 6.1, 6.12, 6.18 and 7.3.
 */
#ifndef EVICT_KERNEL_H
#define EVICT_KERNEL_H

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;
typedef _Bool bool;

enum {
	false = 0,
	true = 1,
};

#define NULL ((void *)0)

#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile typeof(x) *)&(x) = (v))

/* include/uapi/linux/bpf.h */
enum {
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum {
	BPF_F_MMAPABLE = 1U << 10,
	BPF_RB_NO_WAKEUP = 1U << 0,
	BPF_RB_FORCE_WAKEUP = 1U << 1,
};

struct bpf_timer {
	__u64 opaque[2];
} __attribute__((aligned(8)));

#define CLOCK_MONOTONIC 1
#define SIGKILL 9
#define EBUSY 16

/* ___GFP_DIRECT_RECLAIM, include/linux/gfp_types.h; the same bit from 4.13 on.
 */
#define GFP_MAY_SLEEP 0x400u

#define READS __attribute__((preserve_access_index))

struct list_head {
	struct list_head *next;
} READS;

struct kernfs_node {
	__u64 id; /* the inode of the cgroup's directory */
} READS;

struct cgroup {
	struct kernfs_node *kn;
} READS;

struct cgroup_subsys;

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys *ss; /* the controller */
	struct list_head sibling;
	struct list_head children;
	int id; /* small and dense, 1 is the root */
	__u64 serial_nr; /* never given twice */
	struct cgroup_subsys_state *parent;
} READS;

/* include/linux/cgroup_subsys.h; the values depend on the kernel's
 * configuration. */
enum cgroup_subsys_id {
	memory_cgrp_id,
	pids_cgrp_id,
};

struct css_set {
	struct cgroup_subsys_state *subsys[16];
} READS;

typedef struct {
	long counter;
} atomic_long_t;

struct page_counter {
	atomic_long_t usage; /* pages, with what is pre-charged to the per-CPU stocks */
} READS;

struct pglist_data;

struct zone {
	struct pglist_data *zone_pgdat;
} READS;

struct zoneref {
	struct zone *zone;
} READS;

struct zonelist {
	struct zoneref _zonerefs[64]; /* of every node that has memory; ends with NULL */
} READS;

struct pglist_data {
	struct zonelist node_zonelists[1]; /* ZONELIST_FALLBACK is the first */
	atomic_long_t vm_stat[64];
} READS;

struct lruvec {
	struct pglist_data *pgdat;
} READS;

struct mem_cgroup_per_node {
	struct lruvec lruvec;
} READS;

/* mm/memcontrol.c; in include/linux/memcontrol.h up to 6.0, since 5.13. */
struct memcg_vmstats {
	long state[64];
} READS;

struct mem_cgroup {
	struct cgroup_subsys_state css;
	struct page_counter memory;
	struct memcg_vmstats *vmstats;
	struct mem_cgroup_per_node *nodeinfo[64];
} READS;

/* From 5.13 (2d146aa3aa84, "mm: memcontrol: switch to rstat") up to 6.0. */
struct mem_cgroup___embedded {
	struct memcg_vmstats vmstats;
} READS;

/* Before. */
struct mem_cgroup___atomic {
	atomic_long_t vmstats[64];
} READS;

struct pids_cgroup {
	struct cgroup_subsys_state css;
	atomic_long_t counter; /* tasks */
} READS;

enum node_stat_item {
	NR_INACTIVE_FILE,
	NR_ANON_MAPPED,
	NR_FILE_PAGES,
};

struct pid_namespace {
	unsigned int pid_allocated; /* bit 31 is PIDNS_ADDING */
} READS;

struct upid {
	struct pid_namespace *ns;
} READS;

struct pid {
	struct upid numbers[1]; /* [0] is of the initial namespace */
} READS;

typedef struct {
	int counter;
} atomic_t;

struct signal_struct {
	atomic_t live; /* threads that have not begun to exit */
} READS;

struct task_struct {
	int pid; /* tid */
	int tgid;
	__u64 start_boottime; /* ns */
	struct mm_struct *mm; /* NULL: a kernel thread's, or idle */
	struct css_set *cgroups;
	struct pid *thread_pid;
	struct signal_struct *signal;
} READS;

/* include/linux/pid_types.h */
enum pid_type {
	PIDTYPE_PID,
	PIDTYPE_TGID,
};

/* kernel/bpf/helpers.c (6.2), kernel/trace/bpf_trace.c (6.13). Weak: where they
 * are absent, their address is 0. */
extern struct task_struct *bpf_task_from_pid(__s32 pid) __attribute__((section(".ksyms"))) __attribute__((weak));
extern void bpf_task_release(struct task_struct *task) __attribute__((section(".ksyms"))) __attribute__((weak));
extern int bpf_send_signal_task(struct task_struct *task, int sig, enum pid_type type, __u64 value)
	__attribute__((section(".ksyms"))) __attribute__((weak));

struct page;

#endif
