package kube

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// SetSettle is for tests that can't wait for a real kubelet's ten seconds.
func (c *Companion) SetSettle(d time.Duration) { c.settle = d }

// SetTaintMost is for tests on a machine that may be slow.
func (c *Companion) SetTaintMost(d time.Duration) { c.taintMost = d }

// SetSpacing is for tests that can't wait for a quarrel of ten minutes.
func (c *Companion) SetSpacing(most time.Duration) {
	c.spacing = backoff{first: most, most: most}
	c.retry = c.spacing
}

// SetBlindAfter is for tests that can't be blind for a minute.
func (c *Companion) SetBlindAfter(d time.Duration) { c.blindAfter, c.vouchEvery = d, d }

// SetAnswerMost is for tests that can't wait for an answer as long.
func (c *Companion) SetAnswerMost(d time.Duration) {
	c.store.heard.listMost, c.store.heard.watchMost = d, d
}

// SetDeadAfter is for tests that can't mourn an agent for a minute.
func (c *Companion) SetDeadAfter(d time.Duration) { c.deadAfter = d }

// OverwrittenMost is after how many statuses a companion gives up.
const OverwrittenMost = overwrittenMost

// EntryOf is a pod's entry in the workload table.
func EntryOf(p *corev1.Pod) workload.Entry { return newEntry(p) }

// Fit is what a table has that may hold so much.
func Fit(entries []workload.Entry, elements, bytes int) []workload.Entry {
	return fit(entries, size{elements, bytes})
}
