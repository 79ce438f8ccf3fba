package bench

import (
	"math"
	"slices"
)

// Quantiles are of the rounds that have the figure, by nearest rank: each is a value that
// was measured.
type Quantiles struct {
	P50 int64 `json:"p50"`
	P90 int64 `json:"p90"`
	P99 int64 `json:"p99"`
	Max int64 `json:"max"`
}

// QuantilesOf is nil for no values.
func QuantilesOf(values []int64) *Quantiles {
	if len(values) == 0 {
		return nil
	}
	sorted := slices.Sorted(slices.Values(values))
	return &Quantiles{
		P50: nearestRank(sorted, 0.50), P90: nearestRank(sorted, 0.90),
		P99: nearestRank(sorted, 0.99), Max: sorted[len(sorted)-1],
	}
}

// nearestRank is the smallest value that a share p of all does not exceed.
func nearestRank[T any](sorted []T, p float64) T {
	return sorted[max(0, int(math.Ceil(p*float64(len(sorted))))-1)]
}

// Quartiles are of ratios.
type Quartiles struct {
	Median float64 `json:"median"`
	Q25    float64 `json:"q25"`
	Q75    float64 `json:"q75"`
}

// quartilesOf interpolates between neighbours; of no values it is nil.
func quartilesOf(values []float64) *Quartiles {
	if len(values) == 0 {
		return nil
	}
	sorted := slices.Sorted(slices.Values(values))
	at := func(p float64) float64 {
		pos := p * float64(len(sorted)-1)
		low := int(pos)
		high := min(low+1, len(sorted)-1)
		return sorted[low] + (pos-float64(low))*(sorted[high]-sorted[low])
	}
	return &Quartiles{Median: at(0.5), Q25: at(0.25), Q75: at(0.75)}
}
