package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/preflight"
)

func write(t *testing.T, name string, r preflight.Report) string {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestPage(t *testing.T) {
	old := preflight.Report{
		Schema: preflight.Schema, Kernel: "5.10.0-46-cloud-amd64", Cgroup: preflight.Cgroup{Version: "v2"},
		Hooks: []preflight.Hook{
			{Program: "look", Section: "raw_tp", OK: true},
			{Program: "start", Section: "syscall", Unused: true, Error: "argument"},
			{Program: "newtask", Section: "tp_btf/task_newtask", Error: "unknown func `x`#169"},
		},
		Programs: preflight.Programs{Error: "program newtask: refused"}, Fallback: preflight.Fallback{Memory: "poll", Tasks: "event"},
		Scheduling: preflight.Scheduling{Class: "SCHED_FIFO"}, Backstop: preflight.Backstop{Reach: "none"},
		Tiers:   []preflight.Tier{{Signal: "memory.available", Tier: "none"}, {Signal: "pid.available", Tier: "none"}},
		Missing: []preflight.Missing{{What: "BPF programs", Get: "x"}},
	}
	young := preflight.Report{
		Schema: preflight.Schema, Kernel: "7.3.4+deb13-cloud-amd64", Cgroup: preflight.Cgroup{Version: "v2", Kill: true},
		Hooks: []preflight.Hook{
			{Program: "charge", Section: "fentry/page_counter_try_charge", OK: true},
			{Program: "look", Section: "raw_tp", OK: true},
			{Program: "newtask", Section: "tp_btf/task_newtask", OK: true},
		},
		Programs: preflight.Programs{OK: true}, Fallback: preflight.Fallback{Memory: "poll", Tasks: "event"},
		Scheduling: preflight.Scheduling{Class: "SCHED_FIFO"}, Backstop: preflight.Backstop{Reach: "all"},
		Tiers:    []preflight.Tier{{Signal: "memory.available", Tier: "bpf-charge"}, {Signal: "pid.available", Tier: "bpf-task"}},
		Protects: true,
	}
	var out strings.Builder
	if err := run([]string{write(t, "a", old), write(t, "b", young)}, &out); err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string]string{
		"a row of a kernel that takes none": "\n| 5.10.0-46-cloud-amd64 | v2 | none | none | poll, event | none | pidfds | SCHED_FIFO | lacks BPF programs |\n",
		"a row of one that takes all":       "\n| 7.3.4+deb13-cloud-amd64 | v2 | bpf-charge | bpf-task | poll, event | all | cgroup.kill | SCHED_FIFO | protects |\n",
		"hooks first, and who has none":     "| program | hook | 5.10.0 | 7.3.4 |\n|---|---|---|---|\n| charge | `fentry/page_counter_try_charge` | – | yes |\n| newtask | `tp_btf/task_newtask` | no | yes |\n| look | `raw_tp` | yes | yes |\n| start | `syscall` | unused | – |\n",
		"the kernel's words":                "\n\n- 5.10.0, newtask: `unknown func 'x'#169`\n- 5.10.0, all together: `program newtask: refused`\n",
		"the command":                       "`make kernels`",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s: no %q in\n%s", what, want, out.String())
		}
	}
}

func TestAFileThatIsNoReportIsRefused(t *testing.T) {
	for name, file := range map[string]string{
		"another schema": write(t, "x", preflight.Report{Schema: "other"}),
		"no file":        filepath.Join(t.TempDir(), "none"),
	} {
		if err := run([]string{file}, &strings.Builder{}); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v, want an error that names it", name, err)
		}
	}
}
