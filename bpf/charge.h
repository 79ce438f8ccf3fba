/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The charge hook's own: whose memory a page counter counts, and what it does
 * not see, the memory of tasks in the root, whom nobody charges.
 */
#ifndef EVICT_CHARGE_H
#define EVICT_CHARGE_H

/* 1 while the charge hook is attached. Written by pkg/loader. */
__u32 charge_hook;

/* The memory controller, and the state of its root cgroup; constant while the
 * kernel runs. */
__u64 memory_controller;
__u64 memory_root;

static __always_inline void learn_memory_controller(struct cgroup_subsys_state *css)
{
	memory_controller = (__u64)BPF_CORE_READ(css, ss);
	for (int depth = 0; depth < 32; depth++) {
		struct cgroup_subsys_state *parent = BPF_CORE_READ(css, parent);

		if (!parent)
			break;
		css = parent;
	}
	memory_root = (__u64)css;
}

/*
 * The memory cgroup whose memory a counter counts, NULL for a counter of swap,
 * memory+swap, kernel memory, TCP buffers or hugetlb, which the same function
 * charges. Where the counter would be a memory cgroup's, that says of itself
 * that it is the memory controller's; nothing else has that pointer there. (Its
 * cgroup's pointer back would do as well, but is gone with rmdir, and a removed
 * cgroup's memory still counts for its ancestors.)
 */
static __always_inline struct cgroup_subsys_state *css_of_counter(struct page_counter *counter)
{
	struct mem_cgroup *memcg = (void *)counter - bpf_core_field_offset(struct mem_cgroup, memory);
	struct cgroup_subsys *controller = BPF_CORE_READ(memcg, css.ss);

	if (!controller || (__u64)controller != memory_controller)
		return NULL;
	return (void *)memcg + bpf_core_field_offset(struct mem_cgroup, css);
}

/* Growth by less is not told from counters that are folded at their own times. */
#define UNCHARGED_STEP 512

/*
 * Whether memory that nobody is charged for grows: what is in use less what all
 * cgroups together are charged with. Its level is kept in *level, and sinks
 * slowly: a process that ends gives its pages back a moment before their charge.
 */
static __always_inline bool uncharged_grows(struct node_row *n, __s64 *level)
{
	__s64 uncharged, sunk;

	node_available(n);
	uncharged = n->anon_pages + n->file_pages - memory_usage((void *)memory_root);
	sunk = *level - uncharged;
	if (!*level) {
		*level = uncharged; /* the first look */
		return false;
	}
	if (sunk > 0) {
		*level -= (__u64)sunk / 16; /* not negative here */
		return false;
	}
	*level = uncharged;
	return sunk < -UNCHARGED_STEP;
}

#endif
