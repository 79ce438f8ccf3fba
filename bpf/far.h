/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * When the far timer looks next. What it holds: no memory that is filled at up
 * to max_fill_pages_per_second passes a wire while the allocation hook is
 * detached, but that the timer looks within BRIDGE_NS. So it is beside the charge
 * hook too, which does not see what nobody is charged for. pkg/agent has the test.
 */
#ifndef EVICT_FAR_H
#define EVICT_FAR_H

#define MS 1000000LL

/* Between an ask for the allocation hook and its first event the timer stands
 * in for it: as an agent that stalls does not answer, closer and closer towards
 * the wire, for the backstop to come in time. */
#define BRIDGE_NS (1 * MS)
#define MIN_BRIDGE_NS (MS / 10)
/* While the hook is attached: reclaim, mlock and unplug lower what is available
 * without an allocation. */
#define NEAR_TICK_NS (50 * MS)
/* Unless the margin can be filled in that time. */
#define MIN_FAR_TICK_NS (10 * MS)
#define MAX_FAR_TICK_NS (1000 * MS)
/* An ask that went unanswered, or was lost, is repeated. */
#define ASK_AGAIN_NS (100 * MS)

#define FAR_ASKS 0x80000000u

/* struct far_view as a number, for plan_tick. */
enum far_flag {
	FAR_HOOK_SEEN = 1,
	FAR_CHARGE_HOOK = 2,
	FAR_UNCHARGED = 4,
};

/* What the timer knows beside the distance. */
struct far_view {
	bool hook_seen; /* the allocation hook runs */
	bool charge_hook; /* so does the charge hook: who is charged is seen by that */
	bool uncharged; /* memory that nobody is charged for grows */
	__u64 asked_ns_ago;
};

struct far_plan {
	__s64 next_ns;
	bool ask; /* user space to attach the allocation hook, or to know that a wire is near */
};

/* How long it takes to fill so many pages, in whole ms within the bounds. */
static __always_inline __s64 fill_ns(__s64 pages, __s64 least, __s64 most)
{
	__u64 ms;
	__s64 ns;

	if (pages <= 0)
		return least;
	ms = (__u64)pages * 1000 / (__u64)max_fill_pages_per_second;
	if (ms > MAX_FAR_TICK_NS / MS)
		return most;
	ns = ms * MS;
	if (ns > most)
		return most;
	return ns < least ? least : ns;
}

/* How long it is safe not to look: the time in which nothing can come nearer
 * than the margin, and at the least the time in which nothing fills that. */
static __always_inline __s64 far_tick_ns(__s64 distance)
{
	return fill_ns(distance - margin_pages, fill_ns(margin_pages, BRIDGE_NS, MIN_FAR_TICK_NS), MAX_FAR_TICK_NS);
}

/* The time in which nothing can come to the wire, within bounds. */
static __always_inline __s64 bridge_tick_ns(__s64 distance)
{
	__s64 ns = (__u64)distance * (1000 * MS) / (__u64)max_fill_pages_per_second;

	if (ns > BRIDGE_NS || distance <= 0)
		return BRIDGE_NS; /* far enough, or crossed already */
	return ns > MIN_BRIDGE_NS ? ns : MIN_BRIDGE_NS;
}

static __always_inline struct far_plan plan_far_tick(__s64 distance, const struct far_view *view)
{
	struct far_plan plan = {.next_ns = far_tick_ns(distance)};
	__u64 patience = ASK_AGAIN_NS;

	if (distance >= margin_pages)
		return plan;
	if (view->charge_hook) {
		plan.next_ns = fill_ns(distance, BRIDGE_NS, NEAR_TICK_NS);
		if (!view->uncharged)
			patience = MAX_FAR_TICK_NS; /* it need not be attached */
	} else {
		plan.next_ns = view->hook_seen ? NEAR_TICK_NS : bridge_tick_ns(distance);
	}
	plan.ask = (!view->hook_seen || view->charge_hook) && view->asked_ns_ago > patience;
	return plan;
}

#endif
