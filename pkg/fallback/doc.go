// Package fallback watches wires without BPF and hands out the samples that pkg/loader
// does, so that nobody downstream knows. It has two tiers. Poll reads counters when the
// distance to a wire, filled as fast as the machine can, may be used up. Event also has the
// kernel say when to look: memory thresholds of cgroup v1, and the forks that the proc
// connector tells. Counters are always read; an event is no more than a reason to.
//
//	eventfd, proc connector, timer ─► Next: reads what is due ─► Sample
//
// There is no thread of its own for that: the caller's epoll has CrossingsFD, and Next works
// on the caller's thread. What is known of a crossing is when, which wire and how far:
// neither whose allocation it was nor whose fork.
package fallback
