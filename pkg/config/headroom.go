package config

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Headroom is how far above the kubelet's thresholds ours lie. A percentage is a share of
// the kubelet's value, whatever its form: 20% makes 120Mi of 100Mi, 12% of 10%, and 1200 of
// 1000 tasks. A quantity is in the unit of its signal (bytes, tasks, inodes) and can only
// raise a threshold that is one too: 200Mi makes 300Mi of 100Mi.
type Headroom struct {
	// All is a percentage for every signal, when the key holds a string.
	All string
	// Signals maps signals to quantities or percentages, when the key holds a map.
	Signals map[string]string
}

const (
	headroomForm       = `a percentage of the kubelet's values such as "20%", or a map of signals to such percentages or quantities`
	signalHeadroomForm = `a quoted quantity such as "200Mi" or percentage of the kubelet's value such as "20%"`
)

func (h *Headroom) decode(key string, raw json.RawMessage) error {
	var all string
	if json.Unmarshal(raw, &all) == nil {
		if !strings.HasSuffix(all, "%") || !headroomOK(all) {
			return &Error{Key: key, Value: show(raw), Want: headroomForm}
		}
		h.All = all
		return nil
	}
	var signals map[string]json.RawMessage
	if json.Unmarshal(raw, &signals) != nil {
		return &Error{Key: key, Value: show(raw), Want: headroomForm}
	}
	if err := strs(&h.Signals, signalHeadroomForm)(key, raw); err != nil {
		return err
	}
	if err := checkSignals(key, h.Signals); err != nil {
		return err
	}
	for _, s := range slices.Sorted(maps.Keys(h.Signals)) {
		if !headroomOK(h.Signals[s]) {
			return &Error{Key: entry(key, s), Value: strconv.Quote(h.Signals[s]), Want: signalHeadroomForm}
		}
	}
	return nil
}

// headroomOK holds for 0 and more.
func headroomOK(v string) bool {
	if strings.HasSuffix(v, "%") {
		p, err := percent(v)
		return err == nil && p >= 0 && p <= maxReclaim
	}
	q, err := parseQuantity(v)
	return err == nil && q.Sign() >= 0 && !tooLarge(q)
}

func (h Headroom) given() bool { return h.All != "" || h.Signals != nil }

// raise returns the kubelet's thresholds of a key, raised. Those that are off stay off.
func (h Headroom) raise(key string, thresholds map[string]string) (map[string]string, error) {
	raised := maps.Clone(thresholds)
	for _, s := range slices.Sorted(maps.Keys(thresholds)) {
		of := thresholds[s]
		room, name := cmp.Or(h.Signals[s], h.All), "headroom"
		if h.Signals != nil {
			name = entry(name, s)
		}
		if room == "" || off(of) {
			continue
		}
		v, want := raise(of, room)
		if want != "" {
			return nil, &Error{Key: name, Value: strconv.Quote(room), Want: want + ": the kubelet's " + entry(key, s) + " is " + strconv.Quote(of)}
		}
		raised[s] = v
	}
	return raised, nil
}

// raise returns a threshold, raised, or else what room would be accepted.
func raise(of, room string) (v, want string) {
	switch share, isShare := strings.HasSuffix(room, "%"), strings.HasSuffix(of, "%"); {
	case isShare && !share:
		return "", "a percentage"
	case isShare:
		return raisePercent(of, room)
	case share:
		return raiseByShare(of, room)
	}
	sum, more := resource.MustParse(of), resource.MustParse(room)
	if sum.Add(more); tooLarge(sum) {
		return "", "less"
	}
	return sum.String(), ""
}

// raisePercent multiplies in 64 bits and prints in 32, so that 15% and a tenth are 16.5%.
// All of the capacity is refused: always met, and as "100%" the kubelet's word for off.
func raisePercent(of, room string) (v, want string) {
	p := number(of) * (1 + number(room)/100)
	if p == 0 {
		return of, "" // never met, and "0%" would be off
	}
	if float32(p) >= 100 {
		return "", "less, so that the threshold stays below 100%"
	}
	return strconv.FormatFloat(p, 'f', -1, 32) + "%", ""
}

func raiseByShare(of, room string) (v, want string) {
	q := resource.MustParse(of)
	n := float64(q.Value()) * number(room) / 100
	if n >= float64(1<<63-1-q.Value()) {
		return "", "less"
	}
	return resource.NewQuantity(q.Value()+int64(n), q.Format).String(), ""
}

// number is that of an accepted percentage.
func number(percentage string) float64 {
	f, _ := strconv.ParseFloat(strings.TrimRight(percentage, "%"), 64)
	return f
}
