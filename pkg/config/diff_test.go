package config

import (
	"maps"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDiff(t *testing.T) {
	for name, c := range map[string]struct {
		before, after string
		want          []string
	}{
		"nothing":             {"mode: enforce", "mode: enforce", nil},
		"a default spelled":   {"", "mode: shadow\nnodefs: /var/lib/kubelet", nil},
		"null and empty":      {"evictionHard: null", "evictionHard: {}", []string{"evictionHard"}},
		"another spelling":    {"evictionHard: {memory.available: 1Gi}", "evictionHard: {memory.available: 1024Mi}", []string{"evictionHard"}},
		"one of a budget":     {"", "budget: {killsPerHour: 1}", []string{"budget"}},
		"key not as a field":  {"", "fillBytesPerSecond: 1", []string{"fillBytesPerSecond"}},
		"several, in order":   {"journal: /a", "roots: [/a]\nmode: enforce\njournal: /b", []string{"mode", "roots", "journal"}},
		"one removed":         {"protect: [a]", "", []string{"protect"}},
		"kubelet's file gone": {kubeletFile(t, "evictionMaxPodGracePeriod: 3\n"), "", []string{"kubeletConfig", "evictionHard", "evictionMaxPodGracePeriod"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := mustParse(t, c.before).Diff(mustParse(t, c.after))
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func TestDiffKnowsEveryKey(t *testing.T) {
	var got []string
	for i := range reflect.TypeFor[Config]().NumField() {
		if key := keyOf(reflect.TypeFor[Config]().Field(i)); key != "-" {
			got = append(got, key)
		}
	}
	slices.Sort(got)
	if d := cmp.Diff(slices.Sorted(maps.Keys(Default().keys())), got); d != "" {
		t.Errorf("keys of the file and of Diff (-want +got)\n%s", d)
	}
}

func TestRestartKeysStayWhatTheyWere(t *testing.T) {
	former, next := mustParse(t, "roots: [/a]\nmode: shadow"), mustParse(t, "roots: [/b]\nmode: enforce\njournal: /j")
	next.KeepUntilRestart(former)
	if d := cmp.Diff([]string{"mode"}, former.Diff(next)); d != "" {
		t.Errorf("changed (-want +got)\n%s", d)
	}
	for _, key := range RestartKeys {
		if !slices.ContainsFunc(reflect.VisibleFields(reflect.TypeFor[Config]()), func(f reflect.StructField) bool { return keyOf(f) == key }) {
			t.Errorf("no key %q", key)
		}
	}
}
