package daemon

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

// attemptDelay is how long one address has for itself before the next is tried beside it. RFC 8305, Section 5.
const attemptDelay = 250 * time.Millisecond

// interleave orders addresses so that the families alternate, the first one's family first. RFC 8305, Section 4.
func interleave(addrs []netip.Addr) []netip.Addr {
	var first, second []netip.Addr
	for _, a := range addrs {
		if a.Is4() == addrs[0].Is4() {
			first = append(first, a)
		} else {
			second = append(second, a)
		}
	}
	out := make([]netip.Addr, 0, len(addrs))
	for i := range max(len(first), len(second)) {
		if i < len(first) {
			out = append(out, first[i])
		}
		if i < len(second) {
			out = append(out, second[i])
		}
	}
	return out
}

// race dials the addresses of one name, each a little after the one before it or at once when that one failed, and keeps
// the first connection. The others are cancelled, and discarded if they come up all the same. The error is that of the
// first address, which the resolver preferred.
func race[C any](ctx context.Context, addrs []netip.Addr, dial func(context.Context, netip.Addr) (C, error), discard func(C)) (C, error) {
	var none C
	if len(addrs) == 1 {
		return dial(ctx, addrs[0])
	}
	if len(addrs) == 0 {
		return none, errors.New("the name has no address")
	}
	addrs = interleave(addrs)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		index int
		conn  C
		err   error
	}
	outcomes := make(chan outcome, len(addrs)) // room for all: no attempt waits for a reader that has gone
	started, ended := 0, 0
	start := func() {
		index := started
		started++
		go func() {
			conn, err := dial(ctx, addrs[index])
			outcomes <- outcome{index, conn, err}
		}()
	}
	start()
	timer := time.NewTimer(attemptDelay)
	defer timer.Stop()
	var firstErr error
	firstIndex := len(addrs)
	for {
		select {
		case <-timer.C:
			if started < len(addrs) {
				start()
				timer.Reset(attemptDelay)
			}
		case o := <-outcomes:
			ended++
			if o.err == nil {
				cancel()
				go func(left int) {
					for range left {
						if late := <-outcomes; late.err == nil {
							discard(late.conn)
						}
					}
				}(started - ended)
				return o.conn, nil
			}
			if o.index < firstIndex {
				firstIndex, firstErr = o.index, o.err
			}
			if started < len(addrs) {
				start()
				timer.Reset(attemptDelay)
			} else if ended == started {
				return none, firstErr
			}
		}
	}
}
