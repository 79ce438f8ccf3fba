package main

import "fmt"

// grammarCases are configurations at the border of the grammar: the kubelet refuses most of
// them and takes some.
func grammarCases() []*ReplayCase {
	const soft = "evictionSoft: {memory.available: \"1Gi\"}\n"
	var cases []*ReplayCase
	for i, config := range []string{
		`evictionHard: {memory.free: "1Gi"}`,
		`evictionHard: {memory.available: "abc%"}`,
		`evictionHard: {memory.available: "-1%"}`,
		`evictionHard: {memory.available: "100.1%"}`,
		`evictionHard: {memory.available: "0%"}`,
		`evictionHard: {memory.available: "100%"}`,
		`evictionHard: {memory.available: "0.0%"}`,
		`evictionHard: {memory.available: "100.0%"}`,
		`evictionHard: {memory.available: "10%%"}`,
		`evictionHard: {memory.available: "1e1%"}`,
		`evictionHard: {memory.available: "0x1p3%"}`,
		`evictionHard: {memory.available: "%"}`,
		`evictionHard: {memory.available: "100MB"}`,
		`evictionHard: {memory.available: ""}`,
		`evictionHard: {memory.available: " 1Gi"}`,
		`evictionHard: {memory.available: "0"}`,
		`evictionHard: {memory.available: "-1Mi"}`,
		`evictionHard: {memory.available: "1E9"}`,
		`evictionHard: {memory.available: "+5Mi"}`,
		`evictionHard: {memory.available: "0100Mi"}`,
		`evictionHard: {memory.available: "100m"}`,
		`evictionHard: {memory.available: "1.5"}`,
		// More than any node has: always met, so the message prints them.
		`evictionHard: {pid.available: "5000000"}`,
		`evictionHard: {pid.available: "5242880"}`,
		`evictionHard: {pid.available: "5120Ki"}`,
		`evictionHard: {pid.available: "5e6"}`,
		`evictionHard: {pid.available: "5E6"}`,
		`evictionHard: {pid.available: "5000000500m"}`,
		`evictionHard: {pid.available: "5.5M"}`,
		`evictionHard: {pid.available: "5.25Mi"}`,
		`evictionHard: {pid.available: "0.1G"}`,
		`evictionHard: {memory.available: ".5Gi"}`,
		`evictionHard: {memory.available: 100}`,
		`evictionHard: null`,
		`evictionHard: {}`,
		"evictionHard: {memory.available: \"0%\"}\nmergeDefaultEvictionSettings: true",
		soft,
		`evictionSoft: {memory.available: "0%"}`,
		"evictionHard: {}\n" + soft + `evictionSoftGracePeriod: {memory.available: "0s"}`,
		soft + `evictionSoftGracePeriod: {memory.available: "-1s"}`,
		soft + `evictionSoftGracePeriod: {memory.available: "90"}`,
		soft + `evictionSoftGracePeriod: {memory.available: "1h30m"}`,
		soft + `evictionSoftGracePeriod: {memory.available: "1m", memory.free: "1m"}`,
		`evictionSoftGracePeriod: {memory.available: "1m"}`,
		`evictionSoftGracePeriod: {memory.available: "-1m"}`,
		`evictionMinimumReclaim: {memory.available: "0%"}`,
		`evictionMinimumReclaim: {memory.available: "150%"}`,
		`evictionMinimumReclaim: {memory.available: "-1"}`,
		`evictionMinimumReclaim: {memory.available: "0"}`,
		`evictionMinimumReclaim: {memory.free: "1"}`,
		`evictionPressureTransitionPeriod: 0s`,
		`evictionPressureTransitionPeriod: -1s`,
		`evictionMaxPodGracePeriod: -5`,
		`evictionMaxPodGracePeriod: 2147483648`,
		`enforceNodeAllocatable: []`,
		`enforceNodeAllocatable: [none, pods]`,
		`enforceNodeAllocatable: [pod]`,
		`enforceNodeAllocatable: null`,
		"localStorageCapacityIsolation: false\nevictionHard: {}",
	} {
		g := newGenerator(ordinary(fmt.Sprintf("grammar/%d", i), 1, nil, func(s *scene) {
			s.defaults, s.thresholds, s.snapshots, s.quietOthers, s.cross = true, [2]int{0, 0}, [2]int{2, 2}, 0, 0.9
			s.workloads, s.stale, s.noSignal = [2]int{1, 2}, 0, 0
		}))
		c := g.replayCase()
		c.Name, c.Config = g.name, "compat: kubelet\n"+config+"\n"
		cases = append(cases, c)
	}
	return cases
}
