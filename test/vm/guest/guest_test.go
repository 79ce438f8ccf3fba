package guest

import (
	"testing"
	"time"
)

func TestParseExit(t *testing.T) {
	tests := map[string]struct {
		line string
		code int
		ok   bool
	}{
		"all passed":                   {line: ExitLine(0), code: 0, ok: true},
		"a job failed":                 {line: ExitLine(1), code: 1, ok: true},
		"a test printed more behind":   {line: ExitLine(0) + "x"},
		"a test printed more before":   {line: "x" + ExitLine(0)},
		"cut off by the guest's death": {line: "VM exit="},
		"another line":                 {line: "PASS"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			code, ok := ParseExit(tt.line)
			if ok != tt.ok || (ok && code != tt.code) {
				t.Errorf("ParseExit(%q) = %d, %t; want %d, %t", tt.line, code, ok, tt.code, tt.ok)
			}
		})
	}
}

func TestParseDone(t *testing.T) {
	const job = "test/e2e"
	tests := map[string]struct {
		line     string
		pass, ok bool
	}{
		"passed":                   {line: DoneLine(job, true, time.Second), pass: true, ok: true},
		"failed":                   {line: DoneLine(job, false, time.Second), ok: true},
		"another job":              {line: DoneLine("test/e2e/more", true, time.Second)},
		"cut off":                  {line: "ok  \ttest/e2e"},
		"a test that prints alike": {line: "--- ok  \ttest/e2e\t1.000s"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			pass, ok := ParseDone(tt.line, job)
			if pass != tt.pass || ok != tt.ok {
				t.Errorf("ParseDone(%q) = %t, %t; want %t, %t", tt.line, pass, ok, tt.pass, tt.ok)
			}
		})
	}
}

func TestParseClock(t *testing.T) {
	tests := map[string]struct {
		line   string
		uptime time.Duration
		ok     bool
	}{
		"whole seconds":    {line: ClockLine(125 * time.Second), uptime: 125 * time.Second, ok: true},
		"less than one":    {line: ClockLine(time.Millisecond), uptime: time.Second, ok: true},
		"cut off":          {line: "VM clock=12"},
		"a kernel message": {line: "[   12.000000] VM clock=12s"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			uptime, ok := ParseClock(tt.line)
			if ok != tt.ok || (ok && uptime != tt.uptime) {
				t.Errorf("ParseClock(%q) = %s, %t; want %s, %t", tt.line, uptime, ok, tt.uptime, tt.ok)
			}
		})
	}
}
