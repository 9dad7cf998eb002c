package report

import (
	"math"
	"strconv"
)

// scale maps values to a length.
type scale struct {
	low, high float64
	log       bool
	ticks     []float64
}

// linear is a scale from 0 to at least high, with ticks at round values.
func linear(high float64) scale {
	step := roundStep(high / 6)
	s := scale{high: step * math.Max(1, math.Ceil(high/step-1e-9))}
	for i := 0; float64(i)*step <= s.high*(1+1e-9); i++ {
		s.ticks = append(s.ticks, float64(i)*step)
	}
	return s
}

// roundStep is the next of 1, 2, 5 times a power of ten.
func roundStep(x float64) float64 {
	if x <= 0 || math.IsInf(x, 0) || math.IsNaN(x) {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(x)))
	for _, f := range []float64{1, 2, 5} {
		if x <= f*power*(1+1e-9) {
			return f * power
		}
	}
	return 10 * power
}

// logarithmic is a scale around positive values, with ticks at 1, 2 and 5 times powers of ten, or at the powers alone if
// there are many.
func logarithmic(low, high float64) scale {
	s := scale{log: true}
	mantissas := []float64{1, 2, 5}
	if high/low > 1e3 {
		mantissas = []float64{1}
	}
	for power := math.Floor(math.Log10(low)); power <= math.Ceil(math.Log10(high)); power++ {
		for _, m := range mantissas {
			s.ticks = append(s.ticks, m*math.Pow(10, power))
		}
	}
	first, last := 0, len(s.ticks)-1
	for first < last && s.ticks[first+1] <= low*(1+1e-9) {
		first++
	}
	for last > first+1 && s.ticks[last-1] >= high*(1-1e-9) {
		last--
	}
	s.ticks = s.ticks[first : last+1]
	s.low, s.high = s.ticks[0], s.ticks[len(s.ticks)-1]
	return s
}

// at is where a value is, from 0 to 1.
func (s scale) at(v float64) float64 {
	if s.log {
		return math.Log(v/s.low) / math.Log(s.high/s.low)
	}
	return (v - s.low) / (s.high - s.low)
}

// number is a value as a label.
func number(v float64) string {
	if v >= 1e4 || v == math.Trunc(v) {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
