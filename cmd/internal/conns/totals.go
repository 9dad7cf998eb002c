package conns

import "maps"

// maxKinds bounds the words a total is kept for; more are counted as "other".
const maxKinds = 64

// Totals counts connections by what became of them, since the start.
type Totals struct {
	Encrypted uint64            `json:"encrypted"`
	Plain     map[string]uint64 `json:"plain"`  // by fallback_reason
	Failed    map[string]uint64 `json:"failed"` // by kind
}

func newTotals() Totals {
	return Totals{Plain: map[string]uint64{}, Failed: map[string]uint64{}}
}

func (t *Totals) count(in map[string]uint64, word string) {
	if _, ok := in[word]; word == "" || !ok && len(in) >= maxKinds {
		word = "other"
	}
	in[word]++
}

// Totals returns a copy of the totals.
func (r *Registry) Totals() Totals {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.totals
	t.Plain, t.Failed = maps.Clone(t.Plain), maps.Clone(t.Failed)
	return t
}
