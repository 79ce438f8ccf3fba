package main

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// systemd listens at NOTIFY_SOCKET and returns what it was told since the last call.
func systemd(t *testing.T) func() []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", path)
	return func() (told []string) {
		buf := make([]byte, 100)
		for {
			n, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				return told
			}
			told = append(told, string(buf[:n]))
		}
	}
}

func TestSystemdIsTold(t *testing.T) {
	told := systemd(t)
	t.Setenv("WATCHDOG_USEC", "20000000")
	t.Setenv("WATCHDOG_PID", "")
	synctest.Test(t, func(t *testing.T) {
		m := newManager(zerolog.New(zerolog.NewTestWriter(t)))
		m.ready()
		if d := cmp.Diff([]string{"READY=1"}, told()); d != "" {
			t.Error(d)
		}
		ctx, stop := context.WithCancel(t.Context())
		go m.keepAwake(ctx)
		for range 12 {
			m.beat()
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if d := cmp.Diff([]string{"WATCHDOG=1", "WATCHDOG=1"}, told()); d != "" {
			t.Errorf("a hot thread that goes round, in 12 s (-want +got)\n%s", d)
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if d := cmp.Diff([]string{"WATCHDOG=1", "WATCHDOG=1"}, told()); d != "" {
			t.Errorf("one that hangs since second 11, which is seen within 10 s, in 30 s (-want +got)\n%s", d)
		}
		stop()
	})
}

func TestWithoutSystemdNobodyIsTold(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"no watchdog":              {"WATCHDOG_USEC": "", "NOTIFY_SOCKET": ""},
		"the watchdog of a parent": {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1", "NOTIFY_SOCKET": ""},
		"no number":                {"WATCHDOG_USEC": "x", "NOTIFY_SOCKET": ""},
	} {
		t.Run(name, func(t *testing.T) {
			for k, v := range env {
				t.Setenv(k, v)
			}
			m := newManager(zerolog.Nop())
			m.ready()
			m.keepAwake(t.Context()) // returns
		})
	}
}
