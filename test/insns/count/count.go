// Package count is what the program that counts in the guest and the one that keeps the table
// agree on.
package count

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"github.com/ebpf-evict/ebpf-evict/pkg/loader"
)

// Command is the argument that has the guest's program count.
const Command = "count"

// What is counted: the instructions of one of them.
const (
	// Fault is the first touch of a page of anonymous memory, with its part of mmap and munmap.
	Fault = "fault"
	// Fork is vfork, exit and wait.
	Fork = "fork"
)

// Works are all of them.
var Works = []string{Fault, Fork}

// Place is how near the wires are.
type Place string

const (
	// Far: beyond the margin.
	Far Place = "far"
	// Near: within the margin, and far enough for the whole credit.
	Near Place = "near"
	// Crossed: beyond the wire, so that each event has the hooks look.
	Crossed Place = "crossed"
)

// Tier is a back-end of memory signals, and where its wires may be for it to cost something
// else, the cheapest first.
type Tier struct {
	Name   string
	Places []Place
}

// Tiers are all that each kernel of the table offers.
var Tiers = []Tier{
	{loader.TierCharge, []Place{Far, Near, Crossed}},
	{loader.TierAlloc, []Place{Far, Near, Crossed}},
}

// Off is the state without any program loaded.
const Off = "off"

// State names a tier's state in the table.
func (t Tier) State(p Place) string { return t.Name + " " + string(p) }

// States are the names of all states, Off first.
func States() []string {
	names := []string{Off}
	for _, t := range Tiers {
		for _, p := range t.Places {
			names = append(names, t.State(p))
		}
	}
	return names
}

// Counts are the instructions of each work, by its name and the state's.
type Counts map[string]map[string]float64

// Add keeps a figure if there is no lower one.
func (c Counts) Add(work, state string, instructions float64) {
	if c[work] == nil {
		c[work] = map[string]float64{}
	}
	if former, ok := c[work][state]; !ok || instructions < former {
		c[work][state] = math.Round(instructions*10) / 10
	}
}

// AddAll adds all figures of another count.
func (c Counts) AddAll(other Counts) {
	for work, states := range other {
		for state, instructions := range states {
			c.Add(work, state, instructions)
		}
	}
}

// Apart is the largest share by which a figure of each work differs between two counts.
func (c Counts) Apart(other Counts) map[string]float64 {
	apart := map[string]float64{}
	for work, states := range c {
		for state, instructions := range states {
			apart[work] = max(apart[work], math.Abs(other[work][state]/instructions-1))
		}
	}
	return apart
}

// Kernel is what one kernel costs.
type Kernel struct {
	// Release as uname says it.
	Release string `json:"release"`
	// Counts are the least of two passes through all states.
	Counts Counts `json:"counts"`
	// Apart is by what share of a work the passes differ at most.
	Apart map[string]float64 `json:"apart"`
}

// Extra is what the programs add to a work in a state.
func (k Kernel) Extra(work, state string) float64 {
	return k.Counts[work][state] - k.Counts[work][Off]
}

const prefix = "INSNS "

// Line is a Kernel as the guest prints it.
func (k Kernel) Line() (string, error) {
	b, err := json.Marshal(k)
	return prefix + string(b), err
}

// Parse returns the Kernel of a Line; ok is false for every other line.
func Parse(line string) (k Kernel, ok bool, err error) {
	text, ok := strings.CutPrefix(line, prefix)
	if !ok {
		return k, false, nil
	}
	if err := json.Unmarshal([]byte(text), &k); err != nil {
		return k, true, fmt.Errorf("parse the guest's counts: %w", err)
	}
	return k, true, nil
}
