//go:build amd64

package main

import "testing"

func TestUsual(t *testing.T) {
	tests := map[string]struct {
		took [][]int
		want float64
	}{
		"a timer in one round":             {took: [][]int{{9, 5, 5, 5}}, want: 5},
		"a round that was cheaper by luck": {took: [][]int{{5, 1, 5, 5, 5, 5, 5, 5}}, want: 5},
		"one event of a round costs more":  {took: [][]int{{5, 5, 5, 5}, {9, 9, 9, 9}}, want: 7},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := usual(tt.took); got != tt.want {
				t.Errorf("usual(%v) = %v, want %v", tt.took, got, tt.want)
			}
		})
	}
}
