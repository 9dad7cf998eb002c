package daemon

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

var (
	v6a = netip.MustParseAddr("fd00::1")
	v6b = netip.MustParseAddr("fd00::2")
	v4a = netip.MustParseAddr("198.18.0.1")
)

func TestInterleave(t *testing.T) {
	got := interleave([]netip.Addr{v6a, v6b, v4a})
	if want := []netip.Addr{v6a, v4a, v6b}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRaceStartsTheNextAfterADelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var discarded []netip.Addr
		start := time.Now()
		dial := func(ctx context.Context, a netip.Addr) (netip.Addr, error) {
			if a == v6a { // comes up, but far too late, and does not mind the context
				time.Sleep(5 * time.Second)
				return a, nil
			}
			time.Sleep(30 * time.Millisecond)
			return a, nil
		}
		got, err := race(t.Context(), []netip.Addr{v6a, v4a}, dial, func(a netip.Addr) { discarded = append(discarded, a) })
		if err != nil || got != v4a {
			t.Fatalf("got %v, %v", got, err)
		}
		if took := time.Since(start); took != attemptDelay+30*time.Millisecond {
			t.Errorf("took %v", took)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if !slices.Equal(discarded, []netip.Addr{v6a}) {
			t.Errorf("discarded %v", discarded)
		}
	})
}

func TestRaceAFailureStartsTheNextAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		dial := func(ctx context.Context, a netip.Addr) (netip.Addr, error) {
			if a == v4a {
				return a, nil
			}
			return a, errors.New("refused " + a.String())
		}
		got, err := race(t.Context(), []netip.Addr{v6a, v6b, v4a}, dial, func(netip.Addr) {})
		if err != nil || got != v4a || time.Since(start) != 0 {
			t.Errorf("got %v, %v after %v", got, err, time.Since(start))
		}
	})
}

func TestRaceReportsThePreferredAddressesError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := func(ctx context.Context, a netip.Addr) (netip.Addr, error) {
			if a == v6a {
				time.Sleep(time.Second) // fails last, and is still the one to tell of
			}
			return a, errors.New(a.String())
		}
		_, err := race(t.Context(), []netip.Addr{v6a, v4a}, dial, func(netip.Addr) {})
		if err == nil || err.Error() != v6a.String() {
			t.Errorf("got %v", err)
		}
		if _, err := race(t.Context(), nil, dial, func(netip.Addr) {}); err == nil {
			t.Error("no address and no error")
		}
	})
}
