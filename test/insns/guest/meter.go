//go:build amd64

package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/ebpf-evict/ebpf-evict/test/insns/count"
)

// meter enters the states one after another and keeps the least of each: whatever is loaded,
// in some processes each fault takes the kernel 45 instructions more.
type meter struct {
	pod    *pod
	counts count.Counts
}

// pass enters each state of each tier on the way there and on the way back.
func pass(p *pod) (count.Counts, error) {
	m := meter{pod: p, counts: count.Counts{}}
	if err := m.visit(count.Off); err != nil {
		return nil, err
	}
	for _, t := range count.Tiers {
		if err := m.tier(t); err != nil {
			return nil, fmt.Errorf("%s: %w", t.Name, err)
		}
	}
	return m.counts, m.visit(count.Off)
}

func (m *meter) tier(t count.Tier) (err error) {
	a, err := openAgent(t.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	back := slices.Clone(t.Places)
	slices.Reverse(back)
	for _, p := range slices.Concat(t.Places, back) {
		if err := a.place(p); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		if err := m.visit(t.State(p)); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return nil
}

func (m *meter) visit(state string) error {
	figures, err := m.pod.work()
	if err != nil {
		return err
	}
	fmt.Println(state, figures)
	for work, per := range figures {
		m.counts.Add(work, state, per)
	}
	return nil
}
