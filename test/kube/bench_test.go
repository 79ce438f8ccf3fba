package kube

import (
	"encoding/json"
	"os"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

// BenchmarkSideBySide has the kubelet alone and then the agent evict the same pod at the same
// threshold on the same node; `make bench-kube` makes the README's table of it. One run of a
// case is one eviction; medians, except for innocents: all pods that were evicted in its place
// or before it, by round. $EBPF_EVICT_KUBE_FALLS names a file to which each round is added.
func BenchmarkSideBySide(b *testing.B) {
	for _, p := range []party{
		{"kubelet, polling", func(b testing.TB, n *node) crossing { n.KubeletAlone(b, "1Gi"); return nil }},
		{"kubelet, kernelMemcgNotification", func(b testing.TB, n *node) crossing {
			n.KubeletAlone(b, "1Gi", "--kernel-memcg-notification")
			return nil
		}},
		{"ebpf-evict", func(b testing.TB, n *node) crossing { return n.Agent(b, shortly).crossingOf }},
	} {
		for _, load := range []struct {
			name  string
			flags []string
		}{
			{"256 MiB/s", []string{"-rate", "268435456"}},
			{"256 MiB/s, ignoring SIGTERM", []string{"-rate", "268435456", "-ignore-term"}},
			{"full speed", nil},
		} {
			b.Run(p.name+"/"+load.name, func(b *testing.B) {
				n := theNodeIs(b)
				crossed := p.start(b, n)
				var all []figures
				for range b.N {
					f := n.round(b, crossed, append(load.flags, "-total", "2013265920"))
					f.Party, f.Load = p.name, load.name
					f.save(b)
					all = append(all, f)
				}
				report(b, all)
			})
		}
	}
}

// party starts who is to evict.
type party struct {
	name  string
	start func(testing.TB, *node) crossing
}

// crossing is when the kernel saw a pod cross the threshold; nil where nobody but the onlooker
// says.
type crossing func(*pod) time.Duration

// crossingOf is the kernel's stamp in the journal: the onlooker's next look comes after SIGKILL.
func (a *agent) crossingOf(p *pod) time.Duration {
	return time.Duration(a.KillOf(p).Timeline.Crossed)
}

// figures are of one eviction.
type figures struct {
	Party                string  `json:"party"`
	Load                 string  `json:"load"`
	CrossedToSignalledMs float64 `json:"crossedToSignalledMs"`
	CrossedToDeadMs      float64 `json:"crossedToDeadMs"`
	OvershootMiB         float64 `json:"overshootMiB"`
	// Innocents are pods that were evicted before the hog, or in its place.
	Innocents int `json:"innocents"`
}

// round is one eviction.
func (n *node) round(b testing.TB, crossed crossing, flags []string) (f figures) {
	bs := n.Bystanders(b)
	h := n.Pod(b, "hog", hog(flags...), onCall)
	fallen := h.Watch(agentMemory)
	h.Call()
	seen := fallen()
	if crossed != nil {
		seen.Crossed = crossed(h)
	}
	f.CrossedToSignalledMs = milliseconds(seen.Signalled - seen.Crossed)
	f.CrossedToDeadMs = milliseconds(seen.Dead - seen.Crossed)
	f.OvershootMiB = float64(seen.OvershootBytes) / mebibyte
	for _, p := range bs {
		if p.Status().Status.Reason == "Evicted" {
			f.Innocents++
		}
	}
	for _, p := range append(bs, h) {
		p.remove()
	}
	must(b, n.await("end of memory pressure", func() bool { return n.isReady() && n.admits(b) }))
	return f
}

// admits reports whether the kubelet takes a pod without a request: it refuses them for as long
// as it knows of pressure, which it tells the node's object of before and after with a delay.
func (n *node) admits(b testing.TB) bool {
	p := n.Submit(b, podOf("probe", []string{"wait"}))
	defer p.remove()
	return p.await("pod that runs or is refused", func(s *v1.Pod) bool {
		return s.Status.Phase == v1.PodRunning || s.Status.Phase == v1.PodFailed
	}).Status.Phase == v1.PodRunning
}

func (f figures) save(b testing.TB) {
	name := os.Getenv("EBPF_EVICT_KUBE_FALLS")
	if name == "" {
		return
	}
	line, err := json.Marshal(f)
	must(b, err)
	file, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	must(b, err)
	_, err = file.Write(append(line, '\n'))
	must(b, err)
	must(b, file.Close())
}

func report(b *testing.B, all []figures) {
	b.ReportMetric(0, "ns/op") // would count the pods' start
	median := func(of func(figures) float64) float64 {
		var values []float64
		for _, f := range all {
			values = append(values, of(f))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	b.ReportMetric(median(func(f figures) float64 { return f.CrossedToSignalledMs }), "ms-to-signal")
	b.ReportMetric(median(func(f figures) float64 { return f.CrossedToDeadMs }), "ms-to-dead")
	b.ReportMetric(median(func(f figures) float64 { return f.OvershootMiB }), "MiB-overshoot")
	innocents := 0
	for _, f := range all {
		innocents += f.Innocents
	}
	b.ReportMetric(float64(innocents)/float64(len(all)), "innocents")
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
