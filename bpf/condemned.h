/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Condemned cgroups: any of their tasks that allocates or forks gets SIGKILL in
 * the hook. So a fork bomb can't outrun the killer: each of its forks costs it
 * the parent.
 */
#ifndef EVICT_CONDEMNED_H
#define EVICT_CONDEMNED_H

/*
 * Written by pkg/loader; all zero when nobody is being killed. A section of its
 * own, so that user space maps it and condemns with two stores.
 */
struct condemned condemned_cgroups[MAX_CONDEMNED] SEC(".data.condemned");

static __always_inline bool is_condemned(enum controller c, __u64 cgroup_id)
{
	for (int i = 0; i < MAX_CONDEMNED; i++) {
		__u64 id = c == CONTROLLER_MEMORY ? condemned_cgroups[i].memory_id : condemned_cgroups[i].pids_id;

		if (id && id == cgroup_id)
			return true;
	}
	return false;
}

static __always_inline bool anyone_condemned(void)
{
	for (int i = 0; i < MAX_CONDEMNED; i++)
		if (condemned_cgroups[i].memory_id || condemned_cgroups[i].pids_id)
			return true;
	return false;
}

/* Kills the current task when it, or an ancestor of its cgroup, is condemned.
 */
static __noinline int kill_if_condemned(__u32 controller)
{
	enum controller c = controller;
	struct task_struct *task = (void *)bpf_get_current_task();
	struct cgroup_subsys_state *css =
		c == CONTROLLER_MEMORY ? css_of(task, CONTROLLER_MEMORY) : css_of(task, CONTROLLER_PIDS);

	for (int depth = 0; depth < MAX_DEPTH; depth++) {
		struct cgroup_subsys_state *parent;

		if (!css)
			break;
		parent = BPF_CORE_READ(css, parent);
		if (!parent)
			break; /* the root is everybody: never condemned, whoever asks */
		if (is_condemned(c, cgroup_id_of(css))) {
			struct node_row *n = the_node();

			bpf_send_signal(SIGKILL);
			if (n)
				__sync_fetch_and_add(&n->signals_sent, 1);
			return 1;
		}
		css = parent;
	}
	return 0;
}

#endif
