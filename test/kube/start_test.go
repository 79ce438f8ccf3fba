package kube

import (
	"testing"
)

// The other scenes stand on this one.
func TestANodeRunsPods(t *testing.T) {
	n := theNodeIs(t)
	p := n.Pod(t, "first", []string{"wait"})
	if got := len(p.Processes(p.Sandbox)); got != 1 {
		t.Errorf("%d processes in the sandbox, want pause", got)
	}
	if got := len(p.shims()); got != 1 {
		t.Errorf("%d shims, want one", got)
	}
}
