package seam

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"innertun/integration/lab"
	"innertun/stack"
	"innertun/tcpinc"
	"innertun/tcpinc/innerspace"
	"innertun/tcpinc/tcpcrypt"
)

// spy stands on the path. It keeps the SYNs that carry early data, and sends copies of them.
type spy struct {
	mu     sync.Mutex
	at     lab.Place
	syns   [][]byte
	racing bool                  // a copy of the next one, from another port, is sent ahead of it
	losing bool                  // they do not arrive
	alter  func(p []byte) []byte // what becomes of what goes to the client
	answer [][]byte              // SYN-ACKs to copies
}

func (s *spy) Packet(p lab.Packet, at lab.Place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = at
	seg, ok := lab.ParseSegment(p.Data)
	switch {
	case !ok:
	case p.To == lab.A && binary.BigEndian.Uint16(seg.TCP[2:]) == copyPort:
		if seg.IsSYN() {
			s.answer = append(s.answer, bytes.Clone(seg.Payload()))
		}
		return
	case p.To == lab.A && s.alter != nil && seg.IsSYN():
		p = lab.Complete(p)
		p.Data = s.alter(p.Data)
	case p.To == lab.B && seg.IsSYN():
		u, o, _ := innerspace.ParseSYN(seg.Payload())
		if o == innerspace.Upgraded && len(u.Payload) > 0 {
			p = lab.Complete(p)
			s.syns = append(s.syns, bytes.Clone(p.Data))
			if s.racing {
				s.racing = false
				at.Send(lab.Packet{Data: fromPort(p.Data, copyPort), To: lab.B})
			}
			if s.losing {
				return
			}
		}
	}
	at.Send(p)
}

const copyPort = 7777

// fromPort is a copy of a SYN that comes from another port.
func fromPort(p []byte, port uint16) []byte {
	p = bytes.Clone(p)
	binary.BigEndian.PutUint16(p[20:], port)
	checksums(p)
	return p
}

// replay sends a copy of the latest SYN, and returns the data of the SYN-ACK that answers it.
func (s *spy) replay(t *testing.T, edit func([]byte)) innerspace.SYN {
	t.Helper()
	s.mu.Lock()
	s.answer = nil
	p := fromPort(s.syns[len(s.syns)-1], copyPort)
	if edit != nil {
		edit(p)
		checksums(p)
	}
	at := s.at
	s.mu.Unlock()
	at.After(0, func() { at.Send(lab.Packet{Data: p, To: lab.B}) })
	var data []byte
	eventually(t, 5*time.Second, "the copy is answered", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.answer) > 0 {
			data = s.answer[0]
		}
		return data != nil
	})
	syn, o, err := innerspace.ParseSYN(data)
	if o != innerspace.Upgraded || err != nil {
		t.Fatalf("%v, %v", o, err)
	}
	return syn
}

// verdict returns what a SYN-ACK-U says of early data.
func verdict(t *testing.T, s innerspace.SYN) innerspace.EarlyData {
	t.Helper()
	it := innerspace.NewIterator(s.Suffix)
	for o, ok := it.Next(); ok; o, ok = it.Next() {
		if e, _, err := innerspace.ParseEarlyData(o); err == nil {
			return e
		}
	}
	t.Fatal("no verdict")
	return innerspace.EarlyData{}
}

// restartable is a server that can be started again: then it has forgotten all sessions.
type restartable struct {
	t        *testing.T
	stack    *stack.Stack
	listener *tcpinc.Listener
	answers  *answering
	accept   bool
}

func (r *restartable) start() {
	r.t.Helper()
	if r.listener != nil {
		r.listener.Close()
	}
	sessions := &tcpcrypt.SessionCache{Clock: clock}
	var l *tcpinc.Listener
	eventually(r.t, 5*time.Second, "the port is free", func() (free bool) {
		var err error
		l, err = listener(r.stack, service, tcpinc.ListenConfig{Config: tcpinc.Config{Clock: clock,
			InnerSpace: tcpinc.InnerSpaceAuto, Sessions: sessions, EarlyData: r.accept,
		}})
		return err == nil
	})
	r.t.Cleanup(func() { l.Close(); sessions.Close() })
	r.listener = l
	go r.answers.serve(l)
}

func replayPair(t *testing.T, s *spy, accept bool) (*tcpinc.Dialer, *restartable) {
	t.Helper()
	client, server := pair(t, s, lab.Delay(time.Millisecond))
	r := &restartable{t: t, stack: server, answers: new(answering), accept: accept}
	r.start()
	d := &tcpinc.Dialer{Connect: Connect(client), Paths: new(tcpinc.PathMemory), Config: tcpinc.Config{Clock: clock,
		InnerSpace: tcpinc.InnerSpaceAuto, Sessions: &tcpcrypt.SessionCache{Clock: clock},
	}}
	t.Cleanup(func() { d.Config.Sessions.Close() })
	return d, r
}

// A SYN with early data that was captured delivers nothing when it is sent again: to the same server, while the connection
// is open and later, or to one that was started again.
func TestEarlyDataReplayed(t *testing.T) {
	s := new(spy)
	d, r := replayPair(t, s, true)
	ask(t, d)
	ask(t, d)
	if got, early, _ := r.answers.take(); len(got) != 2 || early != 1 {
		t.Fatalf("%q, %d early", got, early)
	}
	for _, where := range []string{"the same server", "a server started again", "once more"} {
		if e := verdict(t, s.replay(t, nil)); e.Accepted {
			t.Errorf("%s: accepted", where)
		}
		sleep(50 * time.Millisecond)
		if got, _, _ := r.answers.take(); len(got) != 0 {
			t.Errorf("%s: the application got %q", where, got)
		}
		if where == "the same server" {
			r.start()
		}
	}
	// And the client goes on with it all the same: its own data is declined, and sent again.
	ask(t, d)
	if got, early, errs := r.answers.take(); len(got) != 1 || got[0] != request || early != 0 || len(errs) > 0 {
		t.Errorf("after a restart: %q, %d early, %v", got, early, errs)
	}
}

// The risk that is left: a copy that arrives first is taken, and the real one then declined, so that its data is sent again.
// The application has it twice.
func TestEarlyDataCopyFirst(t *testing.T) {
	s := new(spy)
	d, r := replayPair(t, s, true)
	ask(t, d)
	r.answers.take()
	s.mu.Lock()
	s.racing = true
	s.mu.Unlock()
	st, _ := ask(t, d)
	if st.EarlyData || st.Resumed {
		t.Errorf("%+v", st)
	}
	eventually(t, 5*time.Second, "both are delivered", func() bool {
		r.answers.mu.Lock()
		defer r.answers.mu.Unlock()
		return slices.Equal(r.answers.got, []string{request, request})
	})
}

// A copy from elsewhere is not taken, also when it is the first: an address has nothing sent to it that has not answered.
func TestEarlyDataFromElsewhere(t *testing.T) {
	s := new(spy)
	d, r := replayPair(t, s, true)
	ask(t, d)
	r.answers.take()
	s.mu.Lock()
	s.losing = true
	s.mu.Unlock()
	ask(t, d)
	r.answers.take()
	elsewhere := func(p []byte) { copy(p[12:16], []byte{198, 18, 7, 7}) }
	if e := verdict(t, s.replay(t, elsewhere)); e.Accepted {
		t.Error("accepted")
	}
	sleep(50 * time.Millisecond)
	if got, _, _ := r.answers.take(); len(got) != 0 {
		t.Errorf("the application got %q", got)
	}
}

// Who makes the client believe that declined data was accepted has the connection broken: nothing is left out unseen.
func TestEarlyDataAcceptanceForged(t *testing.T) {
	s := new(spy)
	d, r := replayPair(t, s, false)
	ask(t, d)
	r.answers.take()
	s.mu.Lock()
	forged := 0
	s.alter = func(p []byte) []byte {
		mark := []byte{253, 7, 0x49, 0x67, 0}
		if i := bytes.Index(p, mark); i > 0 {
			p[i+4] = 1
			checksums(p)
			forged++
		}
		return p
	}
	s.mu.Unlock()
	c, err := d.Dial(t.Context(), netip.Addr{}, service, tcpinc.DialOptions{Policy: tcpinc.Require, EarlyData: []byte(request)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("the rest"))
	eventually(t, 5*time.Second, "the server finds out", func() bool {
		r.answers.mu.Lock()
		defer r.answers.mu.Unlock()
		return slices.ContainsFunc(r.answers.errs, func(err error) bool { return errors.Is(err, tcpinc.ErrEarlyMismatch) })
	})
	if got, _, _ := r.answers.take(); len(got) != 1 || got[0] != "" || forged == 0 {
		t.Errorf("%d forged; the application got %q", forged, got)
	}
}
