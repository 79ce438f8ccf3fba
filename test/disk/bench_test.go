package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// scripts/bench-disk.sh runs these and writes docs/bench/disk.md. One run of a case is one
// eviction; of the 200 pods it is a minute.

// BenchmarkEmptyDirAboveItsLimit: what a writer has written by its death tells, at its rate,
// when that was.
func BenchmarkEmptyDirAboveItsLimit(b *testing.B) {
	const rate, limit = 50_000_000, 64 * mebibyte
	n := newNode(b, filesystems{kind: "ext4"})
	large := n.Pod("large", "data")
	large.Writer("b", intoEmptyDir("data"), 0, 2*limit)
	n.measured(large, 2*limit)
	n.watch("nodefs.available", mebibyte) // never
	var late []float64
	for b.Loop() {
		p := n.Pod("writer", "data")
		n.knows(p, map[string]any{"volumes": []any{map[string]any{"name": "data", "sizeLimitBytes": limit}}})
		n.measured(p, 0)
		p.Run("w", writerImage, "fill", "-path", intoEmptyDir("data"), "-rate", fmt.Sprint(rate), "-total", fmt.Sprint(4*limit), "-after", "/data/go")
		must(b, os.WriteFile(filepath.Join(p.EmptyDir("data"), "go"), nil, 0o600))
		file := n.opened(filepath.Join(p.EmptyDir("data"), "file"))
		n.await("kill of the writer", func() bool { return n.hasKilled(p) })
		n.await("end of the pod", func() bool { return !n.HasCgroup(p.UID) })
		info, err := file.Stat()
		must(b, err)
		late = append(late, float64(info.Size()-limit)/rate)
		_ = file.Close()
	}
	report(b, late, "s-from-crossing-to-death")
}

// opened opens a file when it is there: it can be looked at when its name is gone.
func (n *node) opened(name string) (f *os.File) {
	n.t.Helper()
	n.await("file "+name, func() (ok bool) {
		var err error
		f, err = os.Open(name)
		return err == nil
	})
	return f
}

func (n *node) hasKilled(p *pod) bool {
	return slices.ContainsFunc(n.lines(record.KindKill), func(l record.Line) bool { return l.Victim != nil && l.Victim.UID == p.UID })
}

// BenchmarkWhoFillsTheDisk is TestWhoFillsTheDiskIsEvicted with figures: from the first reading
// below the threshold to SIGKILL, what of that the reclaim and the new figures took, and how
// much was written below the threshold, in seconds of the writer's.
func BenchmarkWhoFillsTheDisk(b *testing.B) {
	for name, into := range map[string]string{"layer": intoLayer, "log": intoLog, "emptydir": intoEmptyDir("data")} {
		b.Run(name, func(b *testing.B) {
			n := newNode(b, filesystems{kind: "ext4"})
			idle := n.Pod("idle", "data")
			n.knows(idle, map[string]any{"ephemeralStorage": map[string]int64{"requestBytes": 256 * mebibyte}})
			idle.Writer("b", intoEmptyDir("data"), 0, 128*mebibyte)
			n.measured(idle, 128*mebibyte)
			var signalled, reclaim, below []float64
			innocents := 0
			for b.Loop() {
				p := n.Pod("writer", "data")
				n.measured(p, 0)
				n.sync(n.NodeFs)
				agent := n.watch("nodefs.available", n.nodeLeft("nodefs.available")-80*mebibyte)
				p.Writer("w", into, fast, 160*mebibyte)
				n.await("an eviction", func() bool { return n.count(record.KindEviction) > 0 })
				l := n.lines(record.KindEviction)[0]
				if l.Victim == nil || l.Victim.UID != p.UID {
					innocents++
				}
				signalled = append(signalled, float64(l.Timeline.Signalled-l.Timeline.Crossed)/1e6)
				reclaim = append(reclaim, float64(l.Reclaim.TookNs)/1e6)
				below = append(below, float64(*l.OvershootBytes)/fast)
				n.end(agent)
				n.await("end of the pod", func() bool { return !n.HasCgroup(p.UID) })
			}
			report(b, signalled, "ms-from-first-reading-to-SIGKILL")
			report(b, reclaim, "ms-of-that-for-reclaim-and-new-figures")
			report(b, below, "s-of-writing-below-the-threshold")
			b.ReportMetric(float64(innocents), "innocents")
		})
	}
}

// BenchmarkWalkerOf200Pods: what the disk process takes of a core in a minute in which nothing
// happens, as an average: the kernel's account of its CPU time.
func BenchmarkWalkerOf200Pods(b *testing.B) {
	const pods, files = 200, 50
	n := newNode(b, filesystems{kind: "ext4"})
	n.allow(6<<30, 10_000)
	var last *pod
	for i := range pods {
		last = n.Pod(fmt.Sprint("p", i), "a", "b")
		for _, volume := range []string{"a", "b"} {
			for f := range files {
				must(b, os.WriteFile(filepath.Join(last.EmptyDir(volume), fmt.Sprint(f)), []byte("x"), 0o600))
			}
		}
		last.Run("c", writerImage, "wait")
	}
	n.measured(last, files)
	time.Sleep(time.Minute) // a young unit is looked at more often
	for b.Loop() {
		start, before := time.Now(), n.cpuSeconds()
		time.Sleep(time.Minute)
		b.ReportMetric(100*(n.cpuSeconds()-before)/time.Since(start).Seconds(), "%-of-a-core")
	}
	b.ReportMetric(pods, "pods")
}

// cpuSeconds is what the disk process has used in its life: fields 14 and 15 of proc(5), of 10
// ms each.
func (n *node) cpuSeconds() float64 {
	n.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.disk.Process.Pid))
	must(n.t, err)
	_, rest, _ := strings.Cut(string(data), ") ")
	var user, system float64
	fields := strings.Fields(rest)
	_, err = fmt.Sscan(fields[14-3]+" "+fields[15-3], &user, &system)
	must(n.t, err)
	return (user + system) / 100
}

// report gives the median and the most of some figures.
func report(b *testing.B, figures []float64, unit string) {
	b.Helper()
	slices.Sort(figures)
	b.ReportMetric((figures[(len(figures)-1)/2]+figures[len(figures)/2])/2, unit+"-p50")
	b.ReportMetric(figures[len(figures)-1], unit+"-max")
}
