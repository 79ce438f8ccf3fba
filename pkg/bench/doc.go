// Package bench measures the agent and its peers from outside: through the public command
// line, the journal and the state file, on cgroup roots and loads of its own.
//
//	Bed (cgroup root, loads) ─► tool (agent, peer) ─► Round ─► Run (quantiles) ─► report
package bench
