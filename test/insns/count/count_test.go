package count

import "testing"

func TestApartIsTheLargestShare(t *testing.T) {
	a := Counts{Fault: {"x": 100, "y": 100}, Fork: {"x": 100}}
	b := Counts{Fault: {"x": 101, "y": 97}, Fork: {"x": 100}}
	if got := a.Apart(b); got[Fault] < 0.0299 || got[Fault] > 0.0301 || got[Fork] != 0 {
		t.Errorf("Apart = %v, want 0.03 of faults and 0 of forks", got)
	}
}

func TestAddKeepsTheLeast(t *testing.T) {
	c := Counts{}
	for _, n := range []float64{5, 3, 4} {
		c.Add(Fault, Off, n)
	}
	c.AddAll(Counts{Fault: {Off: 7}, Fork: {Off: 2}})
	if c[Fault][Off] != 3 || c[Fork][Off] != 2 {
		t.Errorf("counts %v, want fault 3 and fork 2", c)
	}
}
