package shim

import (
	"sync"
	"sync/atomic"
)

// job is something to do outside the netstack's locks.
type job struct {
	abort    bool
	narrow   bool
	open     *Entry // whose connection is to be open
	flow     Flow
	seq, ack uint32
	flags    uint8
}

// worker does jobs in a goroutine of its own. Its queue is bounded: under a flood, some RSTs are not sent.
type worker struct {
	jobs chan job
	done chan struct{}
	wg   sync.WaitGroup
	lost *atomic.Uint64
}

const workerQueue = 256

func (w *worker) start(s *Shim) {
	w.jobs = make(chan job, workerQueue)
	w.done = make(chan struct{})
	w.lost = &s.Counters.LostOwn
	w.wg.Go(func() {
		for {
			select {
			case <-w.done:
				return
			case j := <-w.jobs:
				if j.open != nil {
					s.openEarly(j.open)
				} else if j.abort {
					s.host.Abort(j.flow)
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

func (w *worker) abort(f Flow) { w.put(job{abort: true, flow: f}) }

func (w *worker) narrow(f Flow) { w.put(job{narrow: true, flow: f}) }

func (w *worker) open(e *Entry) { w.put(job{open: e}) }

func (w *worker) put(j job) {
	select {
	case w.jobs <- j:
	default:
		w.lost.Add(1)
	}
}
