package cgroupfs

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Unlimited is the value of a limit that is not set.
const Unlimited = math.MaxInt64

// unlimitedAbove is where the kubelet, too, takes a limit as not set: v1 shows
// 9223372036854771712, MaxInt64 rounded down to a page, for "no limit".
const unlimitedAbove = 1 << 62

// parseValue reads a file of one figure:
//
//	41943040\n
func parseValue(data []byte) (int64, error) {
	v, err := strconv.ParseInt(string(bytes.TrimSpace(data)), 10, 64)
	if err != nil || v < 0 {
		return 0, fmt.Errorf("no figure in %.40q", data)
	}
	return v, nil
}

// parseLimit reads a file of one figure or the word max:
//
//	max\n
func parseLimit(data []byte) (int64, error) {
	if string(bytes.TrimSpace(data)) == "max" {
		return Unlimited, nil
	}
	v, err := parseValue(data)
	if v > unlimitedAbove {
		v = Unlimited
	}
	return v, err
}

// formatLimit is the reverse of parseLimit; unlimited is the file's own word for no limit.
func formatLimit(v int64, unlimited string) string {
	if v == Unlimited {
		return unlimited
	}
	return strconv.FormatInt(v, 10)
}

// parseKey finds one key of a flat keyed file. An absent key is ErrNoKey, not zero.
//
//	inactive_file 19329024\n
func parseKey(data []byte, key string) (int64, error) {
	for line := range bytes.Lines(data) {
		name, value, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
		if string(name) == key {
			return parseValue(value)
		}
	}
	return 0, fmt.Errorf("%s: %w", key, ErrNoKey)
}

// parsePIDs appends the process ids of a cgroup.procs file. Processes of another pid
// namespace show as 0 and are left out.
//
//	4242\n4243\n
func parsePIDs(dst []int, data []byte) ([]int, error) {
	for line := range bytes.Lines(data) {
		v, err := parseValue(line)
		if err != nil || v > math.MaxInt32 {
			return dst, fmt.Errorf("no process id in %.40q", line)
		}
		if v != 0 {
			dst = append(dst, int(v))
		}
	}
	return dst, nil
}

// parseControllers reads cgroup.controllers or cgroup.subtree_control:
//
//	cpu memory pids\n
func parseControllers(data []byte) []string { return strings.Fields(string(data)) }

// ownPath is where a file /proc/PID/cgroup puts the process in the memory hierarchy.
func ownPath(data []byte, v Version) (string, bool) {
	for line := range bytes.Lines(data) {
		fields := strings.SplitN(strings.TrimSuffix(string(line), "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		if v == V2 && fields[0] == "0" || v == V1 && slices.Contains(strings.Split(fields[1], ","), "memory") {
			return fields[2], true
		}
	}
	return "", false
}

// inPath reports whether a file /proc/PID/cgroup puts the process into the cgroup of that
// path or below it: on V1 in the memory or in the pids hierarchy.
//
//	7:memory:/kubepods/burstable\n4:pids:/kubepods/burstable\n0::/\n
func inPath(data []byte, v Version, path string) bool {
	for line := range bytes.Lines(data) {
		fields := strings.SplitN(strings.TrimSuffix(string(line), "\n"), ":", 3)
		if len(fields) != 3 || !counts(v, fields[0], strings.Split(fields[1], ",")) {
			continue
		}
		if rest, ok := strings.CutPrefix(fields[2], path); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

func counts(v Version, hierarchy string, controllers []string) bool {
	if v == V2 {
		return hierarchy == "0"
	}
	return slices.Contains(controllers, "memory") || slices.Contains(controllers, "pids")
}
