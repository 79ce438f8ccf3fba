package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/ebpf-evict/ebpf-evict/pkg/metrics"
	"github.com/ebpf-evict/ebpf-evict/pkg/record"
)

// configured writes a configuration whose files lie in a directory of their own.
func configured(t *testing.T) (file, dir string) {
	t.Helper()
	dir = t.TempDir()
	file = filepath.Join(dir, "config.yaml")
	text := "journal: " + dir + "/journal\nstate: " + dir + "/state\ndisk: " + dir + "/disk\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file, dir
}

func TestExportServesUntilItIsStopped(t *testing.T) {
	file, dir := configured(t)
	if err := os.WriteFile(filepath.Join(dir, "journal"), []byte(killLine+"\n"+doneLine+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	logs, w := io.Pipe()
	cmd := newExportCmd(func() (zerolog.Logger, error) { return zerolog.New(w), nil })
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	cmd.SetArgs([]string{"--config", file, "--listen", "127.0.0.1:0"})
	go func() { ended <- cmd.ExecuteContext(ctx) }()
	line := make([]byte, 500)
	n, err := logs.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	address := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(string(line[:n]))
	r, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	_ = r.Body.Close()
	if want := `ebpf_evict_evictions_total{by="agent",outcome="killed",signal="memory.available"} 1`; err != nil || !strings.Contains(string(body), want) {
		t.Errorf("%v, no %s in\n%s", err, want, body)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestExportRefusesBadUsage(t *testing.T) {
	for name, args := range map[string][]string{
		"an address without a port": {"--listen", "localhost"},
		"no such configuration":     {"--config", "/nonexistent"},
		"an argument":               {"x"},
	} {
		var out bytes.Buffer
		_, _, err := execute(t, newExportCmd(func() (zerolog.Logger, error) { return zerolog.Nop(), nil }), &out, args...)
		var usage usageError
		if !errors.As(err, &usage) {
			t.Errorf("%s: %v, want bad usage", name, err)
		}
	}
}

func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file, dir := configured(t)
		health := func(args ...string) (string, error) {
			var out bytes.Buffer
			text, _, err := execute(t, newHealthCmd(&out), &out, append(args, "--config", file)...)
			return text, err
		}
		for _, args := range [][]string{nil, {"--disk"}} {
			if _, err := health(args...); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%v without a file: %v", args, err)
			}
		}
		write := func(age time.Duration) {
			s := &record.State{Time: record.Time{Time: time.Now().Add(-age)}, PID: 4711, Mode: "shadow"}
			if err := record.WriteState(filepath.Join(dir, "state"), s); err != nil {
				t.Fatal(err)
			}
		}
		write(time.Hour)
		if _, err := health(); !errors.Is(err, metrics.ErrUnwell) {
			t.Errorf("an old state: %v", err)
		}
		write(0)
		if text, err := health(); err != nil || !strings.Contains(text, "PID 4711, shadow mode") {
			t.Errorf("a new state: %q, %v", text, err)
		}
	})
}
