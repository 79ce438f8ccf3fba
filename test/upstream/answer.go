package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/kubernetes/pkg/kubelet/eviction"
	evictionapi "k8s.io/kubernetes/pkg/kubelet/eviction/api"
)

// ReplayCase is a line of replay.jsonl.
type ReplayCase struct {
	Name      string     `json:"name"`
	Config    string     `json:"config"`
	Snapshots []Snapshot `json:"snapshots"`
	// Answers are the distinct ones to each snapshot, the one of our fixed order first.
	Answers  [][]Line `json:"answers,omitempty"`
	Rejected string   `json:"rejected,omitempty"`
}

// Line is DESIGN.md 3.4.
type Line struct {
	Time          string          `json:"time"`
	ThresholdsMet []Threshold     `json:"thresholdsMet"`
	Conditions    map[string]bool `json:"conditions"`
	Acted         *Threshold      `json:"acted"`
	NodeReclaim   []string        `json:"nodeReclaim"`
	Ranked        []string        `json:"ranked"`
	Victims       []Victim        `json:"victims"`
	LocalStorage  []LocalStorage  `json:"localStorage"`
}

type Threshold struct {
	Signal string `json:"signal"`
	Hard   bool   `json:"hard"`
}

type Victim struct {
	UID                string `json:"uid"`
	GracePeriodSeconds int64  `json:"gracePeriodSeconds"`
	Reason             string `json:"reason"`
	Message            string `json:"message"`
}

type LocalStorage struct {
	UID                string `json:"uid"`
	Check              string `json:"check"`
	GracePeriodSeconds int64  `json:"gracePeriodSeconds"`
	Message            string `json:"message"`
}

// RankCase is a line of rank.jsonl.
type RankCase struct {
	Name     string      `json:"name"`
	Config   string      `json:"config"`
	Signal   string      `json:"signal"`
	Snapshot Snapshot    `json:"snapshot"`
	Answer   *RankAnswer `json:"answer,omitempty"`
}

type RankAnswer struct {
	Signal string   `json:"signal"`
	Ranked []Ranked `json:"ranked"`
}

type Ranked struct {
	UID       string `json:"uid"`
	Evictable bool   `json:"evictable"`
}

// Upstream chooses at random among the thresholds that are due, so a case is run until each
// of them was seen chosen: at least minRuns times, and where that is not enough up to maxRuns.
const (
	minRuns = 20
	maxRuns = 5000
)

// errUndefined is about a case whose answer our fixed order does not determine: two
// thresholds of one signal are due, both hard.
var errUndefined = errors.New("upstream's answer is random beyond the choice of (signal, hard)")

// answerReplay fills in Answers or Rejected.
func answerReplay(c *ReplayCase) error {
	k, err := parseConfig(c.Config)
	if rejected := (rejectedError{}); errors.As(err, &rejected) {
		c.Rejected = err.Error()
		return nil
	} else if err != nil {
		return err
	}
	moments := make([]eviction.Moment, len(c.Snapshots))
	for i := range c.Snapshots {
		if moments[i], err = momentOf(&c.Snapshots[i]); err != nil {
			return fmt.Errorf("snapshot %d: %w", i, err)
		}
	}
	seen := make([]answers, len(c.Snapshots))
	for run := 0; run < minRuns || !complete(seen); run++ {
		if run == maxRuns {
			return fmt.Errorf("not every threshold that is due was chosen in %d runs", maxRuns)
		}
		if err := replay(k, c, moments, seen); err != nil {
			return err
		}
	}
	for _, s := range seen {
		slices.SortFunc(s.lines, func(a, b Line) int { return compareActed(a.Acted, b.Acted) })
		c.Answers = append(c.Answers, s.lines)
	}
	return nil
}

// answers are those seen to one snapshot, and the thresholds that upstream may choose.
type answers struct {
	lines []Line
	due   map[Threshold]bool
}

func complete(seen []answers) bool {
	for _, s := range seen {
		if len(s.due) > len(s.lines) {
			return false
		}
	}
	return true
}

func replay(k *kubelet, c *ReplayCase, moments []eviction.Moment, seen []answers) error {
	oracle, err := k.newOracle(layoutOf(&c.Snapshots[0]))
	if err != nil {
		return err
	}
	for i := range moments {
		report, err := oracle.Cycle(moments[i])
		if err != nil {
			return fmt.Errorf("snapshot %d: %w", i, err)
		}
		if err := seen[i].add(lineOf(&c.Snapshots[i], &report), &report); err != nil {
			return fmt.Errorf("snapshot %d: %w", i, err)
		}
	}
	return nil
}

// add notes an answer: as many times as there are thresholds that explain it.
func (s *answers) add(line Line, r *eviction.Report) error {
	if s.due == nil {
		s.due = map[Threshold]bool{}
	}
	due := map[Threshold]bool{}
	for _, t := range r.Due {
		if due[thresholdOf(t)] {
			return errUndefined
		}
		due[thresholdOf(t)], s.due[thresholdOf(t)] = true, true
	}
	acted := []*Threshold{nil}
	if len(r.Acted) > 0 {
		acted = nil
	}
	for _, t := range r.Acted {
		t := thresholdOf(t)
		acted = append(acted, &t)
	}
	for _, line.Acted = range acted {
		i := slices.IndexFunc(s.lines, func(l Line) bool { return reflect.DeepEqual(l.Acted, line.Acted) })
		if i < 0 {
			s.lines = append(s.lines, line)
		} else if !reflect.DeepEqual(s.lines[i], line) {
			return errUndefined
		}
	}
	return nil
}

func momentOf(s *Snapshot) (eviction.Moment, error) {
	pods, stats, err := podsOf(s.Workloads)
	if err != nil {
		return eviction.Moment{}, err
	}
	m := eviction.Moment{Now: s.Time, Summary: summarize(s.Signals, stats), Pods: pods}
	if s.AfterReclaim != nil {
		m.AfterReclaim = summarize(s.AfterReclaim.Signals, stats)
	}
	return m, nil
}

func layoutOf(s *Snapshot) eviction.Layout {
	if s.Layout == nil {
		return eviction.Layout{}
	}
	return eviction.Layout{DedicatedImageFs: s.Layout.DedicatedImageFs, SplitImageFs: s.Layout.SplitImageFs}
}

// lineOf leaves Acted out.
func lineOf(s *Snapshot, r *eviction.Report) Line {
	line := Line{
		Time:          s.TimeText,
		ThresholdsMet: []Threshold{},
		Conditions: map[string]bool{
			string(v1.NodeMemoryPressure): r.MemoryPressure,
			string(v1.NodeDiskPressure):   r.DiskPressure,
			string(v1.NodePIDPressure):    r.PIDPressure,
		},
		NodeReclaim:  append([]string{}, r.Reclaimed...),
		Ranked:       []string{},
		Victims:      []Victim{},
		LocalStorage: []LocalStorage{},
	}
	for _, t := range r.Met {
		if t := thresholdOf(t); !slices.Contains(line.ThresholdsMet, t) {
			line.ThresholdsMet = append(line.ThresholdsMet, t)
		}
	}
	slices.SortFunc(line.ThresholdsMet, compareThresholds)
	for _, pod := range r.Ranked {
		line.Ranked = append(line.Ranked, string(pod.UID))
	}
	for _, k := range r.Kills {
		uid, message := string(k.Pod.UID), k.Status.Message
		if k.ForPressure() {
			line.Victims = append(line.Victims, Victim{uid, k.GracePeriod, k.Status.Reason, message})
		} else {
			line.LocalStorage = append(line.LocalStorage, LocalStorage{uid, checkOf(message), k.GracePeriod, message})
		}
	}
	return line
}

// checkOf names the local storage limit that a message is about.
func checkOf(message string) string {
	switch {
	case strings.HasPrefix(message, "Usage of EmptyDir volume "):
		return "emptydirfs.limit"
	case strings.HasPrefix(message, "Pod ephemeral local storage usage "):
		return "ephemeralpodfs.limit"
	}
	return "ephemeralcontainerfs.limit"
}

func thresholdOf(t evictionapi.Threshold) Threshold {
	return Threshold{Signal: string(t.Signal), Hard: t.GracePeriod == 0}
}

func compareActed(a, b *Threshold) int {
	if a == nil || b == nil {
		return 0
	}
	return compareThresholds(*a, *b)
}

// signalOrder is the fixed order of signals, from DESIGN.md 3.2.
var signalOrder = []string{
	"memory.available", "allocatableMemory.available", "pid.available",
	"nodefs.available", "imagefs.available", "containerfs.available",
	"nodefs.inodesFree", "imagefs.inodesFree", "containerfs.inodesFree",
}

// compareThresholds: memory first, hard before soft, then the signals.
func compareThresholds(a, b Threshold) int {
	return cmp.Or(
		trueFirst(isMemory(a), isMemory(b)),
		trueFirst(a.Hard, b.Hard),
		cmp.Compare(slices.Index(signalOrder, a.Signal), slices.Index(signalOrder, b.Signal)),
	)
}

func isMemory(t Threshold) bool { return strings.Contains(strings.ToLower(t.Signal), "memory") }

func trueFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// answerRank fills in Answer.
func answerRank(c *RankCase) error {
	if _, err := parseConfig(c.Config); err != nil {
		return err
	}
	pods, stats, err := podsOf(c.Snapshot.Workloads)
	if err != nil {
		return err
	}
	ranked, err := eviction.Rank(layoutOf(&c.Snapshot), evictionapi.Signal(c.Signal), pods, &statsapi.Summary{Pods: stats})
	if err != nil {
		return err
	}
	c.Answer = &RankAnswer{Signal: c.Signal, Ranked: []Ranked{}}
	for _, pod := range ranked {
		c.Answer.Ranked = append(c.Answer.Ranked, Ranked{string(pod.UID), eviction.Evictable(pod)})
	}
	return nil
}

func decodeStrict(data []byte, into any) error {
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.DisallowUnknownFields()
	return d.Decode(into)
}
