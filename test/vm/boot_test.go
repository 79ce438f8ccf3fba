package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebpf-evict/ebpf-evict/test/vm/guest"
)

// emulator puts a shell script in qemu's place. It finds the console's file in $console,
// the kernel's command line in $*, and in $boot the number of its call, from 1.
func emulator(t *testing.T, script string) machine {
	t.Helper()
	dir := t.TempDir()
	prologue := `#!/bin/sh
set -e
console=` + dir + `/console
echo x >>` + dir + `/boots
boot=$(wc -l <` + dir + `/boots)
`
	if err := os.WriteFile(filepath.Join(dir, "qemu-system-x86_64"), []byte(prologue+script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return machine{kernel: "vmlinuz-6.1", dir: dir}
}

func boots(t *testing.T, vm machine) int {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(vm.dir, "boots"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(raw), "\n")
}

func TestRunAll(t *testing.T) {
	var (
		okA   = "echo '" + guest.DoneLine("a", true, time.Second) + "'\n"
		failA = "echo '" + guest.DoneLine("a", false, time.Second) + "'\n"
		okB   = "echo '" + guest.DoneLine("b", true, time.Second) + "'\n"
		exit0 = "echo '" + guest.ExitLine(0) + "'\n"
		exit1 = "echo '" + guest.ExitLine(1) + "'\n"
		clock = "echo '" + guest.ClockLine(time.Second) + "' >$console\n"
		// Only the job that the first boot left must run.
		restB = "case $* in *" + guest.SkipVariable + "=1*) " + okB + exit0 + ";; *) " + exit1 + ";; esac\n"
	)
	tests := map[string]struct {
		script    string
		kvm       bool
		wantCode  int
		wantBoots int
		wantErr   string
	}{
		"all jobs pass":            {script: clock + okA + okB + exit0, wantBoots: 1},
		"a failed job is no death": {script: clock + failA + okB + exit1, wantCode: 1, wantBoots: 1},
		"the emulator's end after the exit line does not matter": {script: clock + okA + okB + exit0 + "exit 7", wantBoots: 1},
		"after a death only the rest runs": {
			script:    clock + "if [ $boot = 1 ]; then " + okA + "kill -9 $$; fi\n" + restB,
			wantBoots: 2,
		},
		"what failed before a death stays failed": {
			script:   clock + "if [ $boot = 1 ]; then " + failA + "exit 1; fi\n" + restB,
			wantCode: 1, wantBoots: 2,
		},
		"deaths are bounded": {
			script:   clock + okA + "exit 134",
			wantCode: 1, wantBoots: attempts, wantErr: "no verdict on b: the guest died: the emulator ended: exit status 134",
		},
		"a panic is named": {
			script:   clock + "echo '[ 3.1] Kernel panic - not syncing: Fatal exception' >>$console",
			wantCode: 1, wantBoots: attempts, wantErr: "Kernel panic - not syncing: Fatal exception",
		},
		"KVM that does not work is no attempt": {
			script: "case $* in *kvm*) exit 134;; esac\n" + clock + "if [ $boot -le 3 ]; then exit 1; fi\n" + okA + okB + exit0,
			kvm:    true, wantBoots: 1 + attempts,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			vm := emulator(t, tt.script)
			vm.kvm = tt.kvm
			code, err := runAll(t.Context(), vm, &report{jobs: []string{"a", "b"}})
			if code != tt.wantCode || boots(t, vm) != tt.wantBoots {
				t.Errorf("runAll = %d after %d boots, want %d after %d", code, boots(t, vm), tt.wantCode, tt.wantBoots)
			}
			switch {
			case tt.wantErr == "" && err != nil:
				t.Errorf("runAll: %v", err)
			case tt.wantErr != "" && (!errors.Is(err, errDied) || !strings.Contains(err.Error(), tt.wantErr)):
				t.Errorf("runAll: %v, want errDied with %q", err, tt.wantErr)
			}
		})
	}
}

func TestWhatAProgramSaysIsThatOfItsLastBoot(t *testing.T) {
	vm := emulator(t, "echo '"+guest.ClockLine(time.Second)+"' >$console\n"+
		"echo half; if [ $boot = 1 ]; then kill -9 $$; fi; echo whole\n"+
		"echo '"+guest.DoneLine("a", false, time.Second)+"'; echo '"+guest.ExitLine(1)+"'\n")
	r := &report{jobs: []string{"a"}}
	if code, err := runAll(t.Context(), vm, r); code != 1 || err != nil || r.said.String() != "half\nwhole\n" {
		t.Errorf("runAll = %d, %v; it said %q", code, err, r.said.String())
	}
}

func TestAGuestThatCountsInstructionsIsEmulatedAndRepeatable(t *testing.T) {
	vm := emulator(t, "echo '"+guest.ClockLine(time.Second)+"' >$console\n"+
		`case $* in *kvm*|*"-smp 2"*) exit 1;; *"-accel tcg"*"-icount shift=0,sleep=off -rtc base=2026-01-01,clock=vm -seed 1"*norandmaps*) ;; *) exit 1;; esac
echo '`+guest.DoneLine("a", true, time.Second)+"'; echo '"+guest.ExitLine(0)+"'\n")
	vm.icount = true
	if code, err := runAll(t.Context(), vm, &report{jobs: []string{"a"}}); code != 0 || err != nil || boots(t, vm) != 1 {
		t.Errorf("runAll = %d, %v after %d boots", code, err, boots(t, vm))
	}
}

func TestRunAllOutOfTime(t *testing.T) {
	vm := emulator(t, "exec sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if code, err := runAll(ctx, vm, &report{jobs: []string{"a"}}); err == nil || errors.Is(err, errDied) || code == 0 {
		t.Errorf("runAll = %d, %v; want an error that is no death", code, err)
	}
}

func TestWatchClock(t *testing.T) {
	tests := map[string]struct {
		clocks []time.Duration // one every minute, then silence
		want   string
	}{
		"a guest that never comes up": {want: "no first line of PID 1 in 3m0s"},
		"a clock that stops":          {clocks: []time.Duration{time.Minute, 2 * time.Minute}, want: "its clock has stood at 2m0s for 3m0s"},
		"a clock that repeats itself": {
			clocks: []time.Duration{time.Minute, time.Minute, time.Minute, time.Minute},
			want:   "its clock has stood at 1m0s for 3m0s",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			console := filepath.Join(t.TempDir(), "console")
			synctest.Test(t, func(t *testing.T) {
				ctx, kill := context.WithCancelCause(t.Context())
				defer kill(nil)
				go watchClock(ctx, console, kill)
				printed := ""
				for _, uptime := range tt.clocks {
					time.Sleep(time.Minute)
					printed += guest.ClockLine(uptime) + "\r\n"
					if err := os.WriteFile(console, []byte(printed), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				select {
				case <-ctx.Done():
				case <-time.After(time.Hour):
					t.Fatal("still alive")
				}
				if got := context.Cause(ctx).Error(); got != tt.want {
					t.Errorf("killed because %q, want %q", got, tt.want)
				}
			})
		})
	}
}
