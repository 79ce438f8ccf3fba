package guest

import "testing"

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
