package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ebpf-evict/ebpf-evict/pkg/agent"
	"github.com/ebpf-evict/ebpf-evict/pkg/config"
	"github.com/ebpf-evict/ebpf-evict/pkg/sample"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

func TestRankWarnsOfFiguresThatServeNobody(t *testing.T) {
	const old = 2 * uint64(agent.FiguresFileAge)
	now := sample.Now()
	for name, tc := range map[string]struct {
		writtenNs uint64
		want      string // "": nothing is said
	}{
		"none":        {0, "no such file"},
		"fresh":       {now, ""},
		"stale":       {now - min(old, now-1), "stale"},
		"dated ahead": {now + old, "ahead"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &config.Config{Disk: filepath.Join(t.TempDir(), "disk.json")}
			if tc.writtenNs != 0 {
				if err := workload.NewDiskWriter(c.Disk).Write(&workload.DiskTable{WrittenNs: tc.writtenNs}); err != nil {
					t.Fatal(err)
				}
			}
			var errOut bytes.Buffer
			warnOfFigures(&errOut, c)
			if got := errOut.String(); !strings.Contains(got, tc.want) || (got == "") != (tc.want == "") {
				t.Errorf("said %q, want %q", got, tc.want)
			}
		})
	}
}
