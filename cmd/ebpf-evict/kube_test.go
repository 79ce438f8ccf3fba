package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"

	"github.com/ebpf-evict/ebpf-evict/pkg/kube"
)

// A companion that has not reached the API server yet is alive and not ready.
func TestKubeAnswersProbesAndScrapes(t *testing.T) {
	dir := t.TempDir()
	c, err := kube.New(kube.Options{
		Rest: &rest.Config{Host: "127.0.0.1:1"}, Node: "node-1", Log: zerolog.Nop(),
		Table: filepath.Join(dir, "workloads.json"), Cursor: filepath.Join(dir, "cursor.json"),
	})
	if err != nil {
		t.Fatal(err)
	}
	h, err := kubeHandler(c)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]struct {
		code int
		text string
	}{
		"/healthz": {http.StatusOK, "ok"},
		"/readyz":  {http.StatusServiceUnavailable, "the pods of node node-1 are not listed yet"},
		"/metrics": {http.StatusOK, "\nebpf_evict_kube_ready 0\n"},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != want.code || !strings.Contains(w.Body.String(), want.text) {
			t.Errorf("%s: %d\n%s", path, w.Code, w.Body)
		}
	}
}

func TestKubePreparesTheTablesDirectory(t *testing.T) {
	owner := uint32(os.Getuid())
	if owner == 0 {
		owner = 65533 // root may give it away
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, "tableOwner: %d\nworkloads: %s/table/workloads.json\n", owner, dir), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := newKubeCmd(func() (zerolog.Logger, error) { return zerolog.Nop(), nil })
	cmd.SetArgs([]string{"--prepare", "--config", file})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	if got := ownerOf(t, dir+"/table"); got != owner {
		t.Errorf("the directory is of uid %d, want %d", got, owner)
	}
}

func TestKubeRefusesAReportOfNobody(t *testing.T) {
	for _, report := range []string{"replicaset=delete", "Deployment=delete", "=delete", "ReplicaSet=remove"} {
		cmd := newKubeCmd(func() (zerolog.Logger, error) { return zerolog.Nop(), nil })
		cmd.SetArgs([]string{"--report", report})
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		var usage usageError
		if err := cmd.Execute(); !errors.As(err, &usage) || !strings.Contains(err.Error(), "--report") {
			t.Errorf("%s: %v, want a usage error", report, err)
		}
	}
	if err := checkReport(map[string]string{"ReplicaSet": "delete", "Job": "status"}); err != nil {
		t.Error(err)
	}
}

func ownerOf(t *testing.T, path string) uint32 {
	t.Helper()
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		t.Fatal(err)
	}
	return s.Uid
}
