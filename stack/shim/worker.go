package shim

import (
	"sync"
	"sync/atomic"
)

// job is something to do outside the netstack's locks, and that may be left undone.
type job struct {
	narrow   bool
	open     *Entry // whose connection is to be open
	flow     Flow
	seq, ack uint32
	flags    uint8
}

// worker does jobs in a goroutine of its own. Its queue is bounded: under a flood, some RSTs are not sent. Aborts are not lost, as
// what is to be aborted must not go on; there is one at most for each connection.
type worker struct {
	jobs chan job
	done chan struct{}
	wg   sync.WaitGroup
	lost *atomic.Uint64

	mu     sync.Mutex
	aborts []Flow
	wake   chan struct{} // there are some
}

const workerQueue = 256

func (w *worker) start(s *Shim) {
	w.jobs = make(chan job, workerQueue)
	w.done = make(chan struct{})
	w.wake = make(chan struct{}, 1)
	w.lost = &s.Counters.LostOwn
	w.wg.Go(func() {
		for {
			select {
			case <-w.done:
				return
			case <-w.wake:
				for _, f := range w.takeAborts() {
					s.host.Abort(f)
				}
			case j := <-w.jobs:
				if j.open != nil {
					s.openEarly(j.open)
				} else if j.narrow {
					s.narrow(j.flow)
				} else {
					s.host.Reset(j.flow, j.seq, j.ack, j.flags)
				}
			}
		}
	})
}

func (w *worker) stop() {
	close(w.done)
	w.wg.Wait()
}

func (w *worker) reset(f Flow, seq, ack uint32, flags uint8) {
	w.put(job{flow: f, seq: seq, ack: ack, flags: flags})
}

func (w *worker) abort(f Flow) {
	w.mu.Lock()
	w.aborts = append(w.aborts, f)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default: // it will see this one too
	}
}

func (w *worker) takeAborts() []Flow {
	w.mu.Lock()
	defer w.mu.Unlock()
	flows := w.aborts
	w.aborts = nil
	return flows
}

func (w *worker) narrow(f Flow) { w.put(job{narrow: true, flow: f}) }

func (w *worker) open(e *Entry) { w.put(job{open: e}) }

func (w *worker) put(j job) {
	select {
	case w.jobs <- j:
	default:
		w.lost.Add(1)
	}
}
