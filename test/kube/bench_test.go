package kube

import (
	"slices"
	"testing"
	"time"
)

// BenchmarkSideBySide has the kubelet alone and then the agent evict the same pod at the same
// threshold on the same node: KUBE_FLAGS='-run ^$ -bench SideBySide -benchtime 5x' make
// test-kube. One run of a case is one eviction; medians, except for innocents: all pods that
// were evicted in its place or before it, by round.
func BenchmarkSideBySide(b *testing.B) {
	for _, party := range []struct {
		name  string
		start func(testing.TB, *node)
	}{
		{"kubelet-polling", func(b testing.TB, n *node) { n.KubeletAlone(b, "1Gi") }},
		{"kubelet-notified", func(b testing.TB, n *node) { n.KubeletAlone(b, "1Gi", "--kernel-memcg-notification") }},
		{"agent", func(b testing.TB, n *node) { n.Agent(b, shortly) }},
	} {
		for _, load := range []struct {
			name  string
			flags []string
		}{
			{"256MiB/s", []string{"-rate", "268435456"}},
			{"256MiB/s-ignoring-SIGTERM", []string{"-rate", "268435456", "-ignore-term"}},
			{"full-speed", nil},
		} {
			b.Run(party.name+"/"+load.name, func(b *testing.B) {
				n := theNodeIs(b)
				party.start(b, n)
				var falls []fall
				innocents := 0
				for range b.N {
					f, died := n.round(b, append(load.flags, "-after", "1s", "-total", "2013265920"))
					falls = append(falls, f)
					innocents += died
				}
				report(b, falls, innocents)
			})
		}
	}
}

// round is one eviction, and how many others went before.
func (n *node) round(b testing.TB, flags []string) (f fall, innocents int) {
	bs := n.Bystanders(b)
	h := n.Pod(b, "hog", hog(flags...))
	f = h.Watch(agentMemory)()
	for _, p := range bs {
		if p.Status().Status.Reason == "Evicted" {
			innocents++
		}
	}
	for _, p := range append(bs, h) {
		p.remove()
	}
	must(b, n.await("end of memory pressure", n.isReady))
	return f, innocents
}

func report(b *testing.B, falls []fall, innocents int) {
	b.ReportMetric(0, "ns/op") // would count the pods' start
	slices.SortFunc(falls, func(x, y fall) int { return int(x.took() - y.took()) })
	b.ReportMetric(milliseconds(falls[len(falls)/2].took()), "ms-to-dead")
	b.ReportMetric(milliseconds(falls[len(falls)-1].took()), "ms-to-dead-max")
	slices.SortFunc(falls, func(x, y fall) int { return int(x.OvershootBytes - y.OvershootBytes) })
	b.ReportMetric(float64(falls[len(falls)/2].OvershootBytes)/mebibyte, "MiB-overshoot")
	b.ReportMetric(float64(innocents)/float64(len(falls)), "innocents")
}

func (f fall) took() time.Duration { return f.Dead.Sub(f.Crossed) }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
