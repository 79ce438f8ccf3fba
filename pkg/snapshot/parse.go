package snapshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ebpf-evict/ebpf-evict/pkg/signal"
	"github.com/ebpf-evict/ebpf-evict/pkg/workload"
)

// Error says what is wrong with a snapshot, and where.
type Error struct {
	// Path leads to the value: "workloads[2].memory.workingSetBytes"; empty for the line.
	Path, Reason string
}

func (e *Error) Error() string { return strings.TrimPrefix(e.Path+": "+e.Reason, ": ") }

func wrong(path, format string, args ...any) error {
	return &Error{path, fmt.Sprintf(format, args...)}
}

// Parse reads one snapshot. Keys that it does not know are ignored; a missing part is "no
// data". The error is an *Error.
func Parse(line []byte) (*Snapshot, error) {
	var d document
	if err := unmarshal(line, &d); err != nil {
		return nil, err
	}
	s := &Snapshot{Layout: signal.Layout(d.Layout)}
	var err error
	if s.Time, err = parseTime("time", d.Time); err != nil {
		return nil, err
	}
	if s.Observations, err = observations("signals", d.Signals); err != nil {
		return nil, err
	}
	if d.AfterReclaim != nil {
		if s.AfterReclaim, err = observations("afterReclaim.signals", d.AfterReclaim.Signals); err != nil {
			return nil, err
		}
	}
	s.Workloads, err = workloads(d.Workloads)
	return s, err
}

// unmarshal names the place of what does not fit.
func unmarshal(line []byte, d *document) error {
	var kind *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	line = bytes.TrimSpace(line)
	switch err := json.Unmarshal(line, d); {
	case errors.As(err, &kind):
		return wrong(pathTo(line, kind.Offset), "%s where %s is wanted", kind.Value, kindName(kind.Type.String()))
	case errors.As(err, &syntax):
		return wrong("", "byte %d: %v", syntax.Offset, err)
	case err != nil:
		return wrong("", "%v", err)
	case line[0] == 'n': // which encoding/json takes for an empty document
		return wrong("", "null where an object is wanted")
	}
	if at, twice := repeatedKey(line); twice {
		return wrong(pathTo(line, at), "given twice")
	}
	return nil
}

func kindName(goType string) string {
	switch {
	case strings.HasPrefix(goType, "int"), strings.HasPrefix(goType, "uint"):
		return "an integer"
	case goType == "bool":
		return "true or false"
	case goType == "string":
		return "a string"
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	}
	return "an object"
}

func parseTime(path, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	switch {
	case err != nil:
		return t, wrong(path, "%q is no RFC 3339 time", text)
	case !t.IsZero() && (t.Before(earliest) || t.After(latest)):
		return t, wrong(path, "%q is too far from now", text)
	}
	return t, nil
}

// observations are in the order of signal.Names.
func observations(path string, signals map[string]reading) ([]signal.Observation, error) {
	for _, name := range slices.Sorted(maps.Keys(signals)) {
		if !slices.Contains(signal.Names(), signal.Signal(name)) {
			return nil, wrong(path+"["+name+"]", "no such signal")
		}
	}
	obs := []signal.Observation{}
	for _, name := range signal.Names() {
		r, ok := signals[string(name)]
		if !ok {
			continue
		}
		o, ok, err := r.observation(path+"["+string(name)+"]", name)
		if err != nil {
			return nil, err
		}
		if ok {
			obs = append(obs, o)
		}
	}
	return obs, nil
}

// observation is false when a part of the reading is missing.
func (r *reading) observation(path string, name signal.Signal) (signal.Observation, bool, error) {
	available, capacity, unit := r.Available, r.Capacity, ""
	stray, form := r.AvailableBytes != nil || r.CapacityBytes != nil, "available and capacity"
	if name.Bytes() {
		available, capacity, unit = r.AvailableBytes, r.CapacityBytes, "Bytes"
		stray, form = r.Available != nil || r.Capacity != nil, "availableBytes and capacityBytes"
	}
	if stray { // read as no data it would mean that all is well
		return signal.Observation{}, false, wrong(path, "%s is given by %s", name, form)
	}
	t, err := parseTime(path+".time", r.Time)
	if err != nil {
		return signal.Observation{}, false, err
	}
	if capacity != nil && *capacity < 0 {
		return signal.Observation{}, false, wrong(path+".capacity"+unit, "%d is negative", *capacity)
	}
	if available == nil || capacity == nil {
		return signal.Observation{}, false, nil
	}
	return signal.Observation{Signal: name, Available: *available, Capacity: *capacity, Ns: Ns(t)}, true, nil
}

func workloads(units []unit) ([]workload.Workload, error) {
	ws := make([]workload.Workload, 0, len(units))
	seen := make(map[string]int, len(units))
	for i := range units {
		path := fmt.Sprintf("workloads[%d]", i)
		w, err := units[i].workload(path)
		if err != nil {
			return nil, err
		}
		if former, ok := seen[w.UID]; ok {
			return nil, wrong(path+".uid", "%q is workloads[%d] already", w.UID, former)
		}
		seen[w.UID] = i
		ws = append(ws, w)
	}
	return ws, nil
}
