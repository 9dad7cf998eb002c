// Package cell runs one cell of an experiment: two hosts with this project's own stacks, a variant of what they speak, a
// path of lab elements between them and a workload, in the process and as a rule on a virtual clock, bounded in time. It
// says what came of it: encrypted, fell back, broke or hung, how long it took, and which options each side saw.
//
//	client --- own options --- tap --- delay --- elements, the first nearest to the client --- delay --- tap --- own options --- server
package cell

import (
	"context"
	"errors"
	"fmt"
	"time"

	"innertun/integration/lab"
	"innertun/integration/lab/elements"
	"innertun/tcpinc"
	"innertun/tcpinc/innerspace"
)

// Cell is what is run. Its zero value, but for a Workload, is plain TCP over a path of nothing but DefaultRTT.
type Cell struct {
	Variant  Variant
	Path     []elements.Spec // the first is nearest to the client
	Workload Workload
	RTT      time.Duration // of the path without its elements; 0: DefaultRTT
	MTU      int           // of the hosts' links, octets; 0: 1500
	IPv6     bool
	Room     Room   // of the server's stack
	Seed     uint64 // of the elements' chances and of the octets that are sent
	// Real runs the cell on the clock on the wall. Otherwise time is virtual; only one cell at a time can run in a process
	// then, and nothing else in the process may be busy.
	Real bool
	// Limit bounds the cell by its own clock; what is not over then hangs. 0: 40 min of virtual or 60 s of real time, besides
	// the pauses of the workload.
	// A TCP that has lost its path gives up after a quarter of an hour or more, and an idle one asks after five minutes.
	Limit time.Duration
	// Wall bounds it by the clock on the wall; beyond it Run returns ErrSlow. 0: 2 min.
	Wall time.Duration
}

// Room is how many openings a stack keeps at once. 0: as many as the stack has without further words.
type Room struct {
	Flows    int // handshakes in progress that carry options: stack.Config.MaxFlows
	HalfOpen int // half-open connections: stack.Config.MaxHalfOpen
}

// Variant is what the two ends speak.
type Variant struct {
	Name           string
	Client, Server Side
}

// Side is what one end speaks.
type Side struct {
	Policy tcpinc.Policy // Off: plain TCP; Opportunistic and Require offer encryption
	Config tcpinc.Config // Clock, Logger and Sessions are filled in
	Resume bool          // sessions are kept, so that later connections can resume them
	// EarlyData has the client's first request leave with its SYN where the server takes that: Config.EarlyData.
	EarlyData bool
	// Outer puts options of one's own into the headers of what this side sends, between host and tap.
	Outer []OuterOption
	// Stream is sent as inner options once a connection is open, if it has Inner Space.
	Stream []innerspace.Option
}

// OuterOption is an option in TCP headers.
type OuterOption struct {
	Kind     uint8
	Data     []byte
	Segments lab.Segments
}

// Variants that need no further words.
func Plain() Variant {
	return Variant{Name: "plain", Client: Side{Policy: tcpinc.Off}, Server: Side{Policy: tcpinc.Off}}
}

// Opportunistic is tcpcrypt at both ends, plain TCP where that fails.
func Opportunistic() Variant { return Variant{Name: "opportunistic"} }

// Require is tcpcrypt or nothing for the client; the server takes what comes.
func Require() Variant { return Variant{Name: "require", Client: Side{Policy: tcpinc.Require}} }

// Workload is what the applications do: in each round the client sends Up octets, and the server answers with Down octets
// when it has them all. Both verify every octet. After the last round either ends its stream.
type Workload struct {
	Name        string
	Up, Down    int           // octets of a round, at least 1
	Rounds      int           // 0: 1
	Idle        time.Duration // before each round but the first
	Connections int           // one after the other, each with all rounds; 0: 1
	Pause       time.Duration // before each connection but the first
}

// Pauses is how long the applications do nothing by themselves.
func (w Workload) Pauses() time.Duration {
	rounds, connections := time.Duration(max(w.Rounds, 1)), time.Duration(max(w.Connections, 1))
	return connections*(rounds-1)*w.Idle + (connections-1)*w.Pause
}

// RequestReply is a short request with a short answer.
func RequestReply() Workload { return Workload{Name: "request-reply", Up: 200, Down: 2000} }

// Bulk is a long upload with a short answer.
func Bulk(octets int) Workload { return Workload{Name: "bulk", Up: octets, Down: 32} }

// Download is a short request with a long answer.
func Download(octets int) Workload { return Workload{Name: "download", Up: 200, Down: octets} }

// IdleThenRequest is a request, silence, and another request.
func IdleThenRequest(idle time.Duration) Workload {
	return Workload{Name: "idle", Up: 200, Down: 2000, Rounds: 2, Idle: idle}
}

// DefaultRTT is that of a path across a continent.
const DefaultRTT = 40 * time.Millisecond

const (
	defaultMTU          = 1500
	defaultWall         = 2 * time.Minute
	defaultLimit        = 40 * time.Minute
	defaultLimitReal    = 60 * time.Second
	servicePort         = 80
	maxOctetsOfWorkload = 1 << 30
)

// ErrSlow says that a cell took longer than Cell.Wall, or that the process did not come to rest.
var ErrSlow = errors.New("the cell takes too long by the clock on the wall")

func (c Cell) withDefaults() (Cell, error) {
	if c.RTT == 0 {
		c.RTT = DefaultRTT
	}
	if c.MTU == 0 {
		c.MTU = defaultMTU
	}
	if c.Wall == 0 {
		c.Wall = defaultWall
	}
	w := &c.Workload
	w.Rounds, w.Connections = max(w.Rounds, 1), max(w.Connections, 1)
	if c.Limit == 0 {
		c.Limit = defaultLimit
		if c.Real {
			c.Limit = defaultLimitReal
		}
		c.Limit += w.Pauses()
	}
	switch {
	case w.Up < 1 || w.Down < 1:
		return c, fmt.Errorf("cell: a workload needs at least one octet each way, not %d and %d", w.Up, w.Down)
	case w.Up > maxOctetsOfWorkload || w.Down > maxOctetsOfWorkload:
		return c, fmt.Errorf("cell: a workload of more than %d octets in a round does not fit", maxOctetsOfWorkload)
	case c.RTT < 0 || c.Limit < 0 || c.Wall < 0 || w.Idle < 0 || w.Pause < 0:
		return c, errors.New("cell: a time is negative")
	case c.Room.Flows < 0 || c.Room.HalfOpen < 0:
		return c, errors.New("cell: the server's room is negative")
	case c.MTU < 1280 || c.MTU > 65535:
		return c, fmt.Errorf("cell: mtu is %d: expected 1280 to 65535", c.MTU)
	}
	return c, nil
}

// Run runs a cell. An error means that it could not be run, not that something in it failed; at the end of ctx it is ctx's.
func Run(ctx context.Context, c Cell) (Result, error) {
	r, _, err := run(ctx, c)
	return r, err
}

// RunCaptured is Run with what passed by either end's tap.
func RunCaptured(ctx context.Context, c Cell) (Result, [2][]lab.Captured, error) { return run(ctx, c) }

func run(ctx context.Context, c Cell) (Result, [2][]lab.Captured, error) {
	var none [2][]lab.Captured
	c, err := c.withDefaults()
	if err != nil {
		return Result{}, none, err
	}
	w, err := newWorld(ctx, c)
	if err != nil {
		return Result{}, none, err
	}
	began := time.Now()
	err = w.play()
	packets := w.packets()
	r := w.result(packets)
	w.close()
	r.Wall = time.Since(began)
	return r, packets, err
}
