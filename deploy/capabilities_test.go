package deploy_test

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// capabilities are the names in the part of a file that a pattern's first group matches.
func capabilities(t *testing.T, path, pattern string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	part := regexp.MustCompile(pattern).FindSubmatch(text)
	if part == nil {
		t.Fatalf("%s has no %s", path, pattern)
	}
	var names []string
	for _, m := range regexp.MustCompile(`\b(?:unix\.CAP_|CAP_)?([A-Z]+(?:_[A-Z]+)*)\b`).FindAllSubmatch(part[1], -1) {
		names = append(names, string(m[1]))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func TestTheAgentHasTheCapabilitiesThatCheckLists(t *testing.T) {
	listed, err := os.ReadFile("../pkg/preflight/capability.go")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range regexp.MustCompile(`\{unix\.CAP_(\w+),`).FindAllSubmatch(listed, -1) {
		want = append(want, string(m[1]))
	}
	slices.Sort(want)
	if len(want) < 10 {
		t.Fatalf("check lists %v", want)
	}
	unit := capabilities(t, "systemd/ebpf-evict.service", `\nCapabilityBoundingSet=(.*)`)
	if d := cmp.Diff(want, unit); d != "" {
		t.Errorf("systemd unit (-check +unit)\n%s", d)
	}
	var documented []string
	text, err := os.ReadFile("../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `CAP_([A-Z_]+)` \\|").FindAllSubmatch(text, -1) {
		documented = append(documented, string(m[1]))
	}
	slices.Sort(documented)
	inContainers := slices.Sorted(slices.Values(append(want, "SYS_PTRACE")))
	if d := cmp.Diff(inContainers, documented); d != "" {
		t.Errorf("docs/install.md (-check and SYS_PTRACE +docs)\n%s", d)
	}
}
