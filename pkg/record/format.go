package record

import (
	"fmt"
	"strings"
	"unicode"
)

// FormatBytes writes a size for people, with three digits: "512 MiB".
func FormatBytes(n int64) string {
	if n > -1024 && n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), 0
	for v >= 1023.5 || v <= -1023.5 {
		v, unit = v/1024, unit+1
	}
	return digits(v) + " " + [...]string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}[unit]
}

// FormatNs writes nanoseconds for people, with three digits: "41.2 µs".
func FormatNs(ns int64) string {
	if ns == 0 {
		return "0 µs"
	}
	v, unit := float64(ns)/1e3, 0
	for unit < 2 && (v >= 999.5 || v <= -999.5) {
		v, unit = v/1e3, unit+1
	}
	return digits(v) + " " + [...]string{"µs", "ms", "s"}[unit]
}

func digits(v float64) string {
	switch size := max(v, -v); {
	case size < 9.995:
		return fmt.Sprintf("%.2f", v)
	case size < 99.95:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// Printable makes a string from a journal safe for a terminal and for one row: names of
// cgroups are chosen by whoever runs in them.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
