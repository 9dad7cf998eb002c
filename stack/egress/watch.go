package egress

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	netlinkroute "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// settle is how long a watcher waits for further changes before it looks: one command often makes several.
const settle = 100 * time.Millisecond

// Watcher follows the changes of an interface.
type Watcher struct {
	ask     func(name string) (Interface, error)
	conn    *netlink.Conn
	known   Interface
	changed func(Interface)
	wake    chan struct{}
	stop    chan struct{}
	once    sync.Once
	done    sync.WaitGroup
}

// Watch calls changed, one call at a time, whenever addresses, routes, MTU, MAC address or state of the interface
// differ from what was last known; known is what the caller knows. An interface that is gone is reported once, with
// its name alone. It watches the network namespace that is current now.
func (h *Host) Watch(known Interface, changed func(Interface)) (*Watcher, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, fmt.Errorf("egress: watch: %w", err)
	}
	for _, group := range []uint32{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	} {
		if err := conn.JoinGroup(group); err != nil {
			return nil, errors.Join(fmt.Errorf("egress: watch: %w", err), conn.Close())
		}
	}
	w := &Watcher{ask: h.Interface, conn: conn, known: known, changed: changed, wake: make(chan struct{}, 1), stop: make(chan struct{})}
	w.wake <- struct{}{} // for what changed before the groups were joined
	w.done.Go(w.receive)
	w.done.Go(w.run)
	return w, nil
}

// Close ends the watching and waits for a callback that runs. It must not be called from the callback.
func (w *Watcher) Close() error {
	var err error
	w.once.Do(func() {
		close(w.stop)
		err = w.conn.Close()
	})
	w.done.Wait()
	return err
}

// receive turns every message, and every loss of messages, into a reason to look.
func (w *Watcher) receive() {
	for {
		_, err := w.conn.Receive()
		if errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EBADF) {
			return
		}
		select {
		case <-w.stop:
			return
		case w.wake <- struct{}{}:
		default:
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			select {
			case <-w.stop:
				return
			case <-time.After(settle):
			}
		}
	}
}

func (w *Watcher) run() {
	for {
		select {
		case <-w.stop:
			return
		case <-w.wake:
		}
		w.look()
		select {
		case <-w.stop:
			return
		case <-time.After(settle):
		}
	}
}

func (w *Watcher) look() {
	now, err := w.ask(w.known.Name)
	if errors.As(err, &netlinkroute.LinkNotFoundError{}) {
		now = Interface{Name: w.known.Name}
	} else if err != nil {
		// A listing that changes too fast to be read says nothing of the interface.
		select {
		case w.wake <- struct{}{}:
		default:
		}
		return
	}
	if !now.equal(w.known) {
		w.known = now
		w.changed(now)
	}
}
