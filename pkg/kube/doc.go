// Package kube is the companion: a process beside the agent that talks to the API server
// and holds no privilege on the node. It watches the node's pods and writes what they ask
// for into the workload table; it follows the journal and brings each kill to the cluster
// as the kubelet reports an eviction of its own. Two nodes' companions never meet.
package kube
