package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// A run of the walk ends after 256 cgroups, and the next one goes on where it ended.
func TestWalkGoesOnUntilItHasSeenThemAll(t *testing.T) {
	l := open(t, Options{})
	dir := newCgroup(t)
	if dir.memory == dir.pids { // v2: or the children have no rows of their own
		if err := os.WriteFile(filepath.Join(dir.memory, "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
			t.Fatal(err)
		}
	}
	const many = 700
	var made []string
	for i := range many {
		child := filepath.Join(dir.memory, fmt.Sprint("c", i))
		if err := os.Mkdir(child, 0o755); err != nil {
			t.Fatal(err)
		}
		made = append(made, child)
		t.Cleanup(func() { _ = os.Remove(child) })
	}
	for name, walk := range map[string]func() error{
		"a helper's walk":  func() error { _, err := l.Walk(); return err },
		"the hot thread's": l.WalkNow,
	} {
		if err := walk(); err != nil {
			t.Fatal(err)
		}
		start := newest(l)
		if err := walk(); err != nil {
			t.Fatal(err)
		}
		for _, child := range made {
			css := l.Find(Memory, inode(t, child))
			row, ok := l.Row(Memory, css, inode(t, child))
			if !ok || row.Ns <= start {
				t.Fatalf("%s: row %d of %s was left out", name, css, child)
			}
		}
	}
	if n, err := l.Walk(); err != nil || n < many {
		t.Errorf("a walk counts %d cgroups, want at least %d (%v)", n, many, err)
	}
	for range 20 { // each walker has a place of its own in the list
		hot := make(chan error, 1)
		go func() { hot <- l.WalkNow() }()
		n, err := l.Walk()
		if err := errors.Join(err, <-hot); err != nil || n < many {
			t.Fatalf("a walk beside the hot thread's counts %d cgroups, want at least %d (%v)", n, many, err)
		}
	}
	if l.Find(Memory, 1<<60) != 0 {
		t.Error("a cgroup that is none has a row")
	}
}

// newest is when a row was last read.
func newest(l *Loader) (ns uint64) {
	for _, row := range l.Index(Memory, nil) {
		ns = max(ns, row.Ns)
	}
	return ns
}
