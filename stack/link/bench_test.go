package link

import (
	"net"
	"testing"
	"time"
)

const benchChunk = 256 << 10

// pump writes chunks from one end to the other and waits until all have arrived.
func pump(b *testing.B, from, to net.Conn) {
	b.Helper()
	done := make(chan int64)
	go func() {
		buf := make([]byte, benchChunk)
		var n int64
		for {
			k, err := to.Read(buf)
			n += int64(k)
			if err != nil {
				done <- n
				return
			}
		}
	}()
	chunk := make([]byte, benchChunk)
	b.SetBytes(benchChunk)
	start := time.Now()
	var sent int64
	for b.Loop() {
		n, err := from.Write(chunk)
		check(b, err)
		sent += int64(n)
	}
	check(b, from.(interface{ CloseWrite() error }).CloseWrite())
	if got := <-done; got != sent {
		b.Fatalf("%d octets arrived of %d", got, sent)
	}
	b.ReportMetric(float64(sent)*8/1e9/time.Since(start).Seconds(), "Gbit/s")
}

func report(b *testing.B, s Stats) {
	b.Logf("%+v", s)
	if s.ReadCalls > 0 {
		b.ReportMetric(float64(s.Received)/float64(s.ReadCalls), "rx-pkts/call")
	}
	if s.Sent > 0 {
		b.ReportMetric(float64(s.SentBytes)/float64(s.Sent), "tx-B/pkt")
	}
	if s.Received > 0 {
		b.ReportMetric(float64(s.ReceivedBytes)/float64(s.Received), "rx-B/pkt")
	}
}

func BenchmarkPacketSend(b *testing.B) {
	near, far := twoSpaces(b, 1500)
	l := far.listen("tcp", farV4+":9000")
	p := openNear(b, near)
	s := newNetstack(b, p.LinkEndpoint(), nearV4+"/24")
	c := dialFrom(b, s, firstPort, farV4+":9000")
	k, err := l.Accept()
	check(b, err)
	pump(b, c, k)
	report(b, p.Stats())
}

func BenchmarkPacketReceive(b *testing.B) {
	near, far := twoSpaces(b, 1500)
	l := far.listen("tcp", farV4+":9000")
	p := openNear(b, near)
	s := newNetstack(b, p.LinkEndpoint(), nearV4+"/24")
	c := dialFrom(b, s, firstPort, farV4+":9000")
	k, err := l.Accept()
	check(b, err)
	pump(b, k, c)
	report(b, p.Stats())
}

// pingPong sends one octet each way in turn.
func pingPong(b *testing.B, c, k net.Conn) {
	b.Helper()
	go func() {
		buf := make([]byte, 1)
		for {
			if _, err := k.Read(buf); err != nil {
				return
			}
			if _, err := k.Write(buf); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 1)
	for b.Loop() {
		_, err := c.Write(buf)
		check(b, err)
		_, err = c.Read(buf)
		check(b, err)
	}
	check(b, k.Close())
}

func BenchmarkPacketPingPong(b *testing.B) {
	near, far := twoSpaces(b, 1500)
	l := far.listen("tcp", farV4+":9000")
	p := openNear(b, near)
	s := newNetstack(b, p.LinkEndpoint(), nearV4+"/24")
	c := dialFrom(b, s, firstPort, farV4+":9000")
	k, err := l.Accept()
	check(b, err)
	pingPong(b, c, k)
}

func BenchmarkTUNPingPong(b *testing.B) {
	s, tun := tunWorld(b, 1500)
	ns := newNetstack(b, tun.LinkEndpoint(), farV4+"/24")
	l := listenAt(b, ns, farV4+":9000")
	k := s.dial(farV4 + ":9000")
	c, err := l.Accept()
	check(b, err)
	pingPong(b, c, k)
}

// Without offloads every segment is a packet of its own on the way in.
func BenchmarkPacketReceiveSmall(b *testing.B) {
	near, far := twoSpaces(b, 1500)
	far.run("", "ethtool", "-K", "far0", "tx", "off", "gso", "off", "tso", "off")
	l := far.listen("tcp", farV4+":9000")
	p := openNear(b, near)
	s := newNetstack(b, p.LinkEndpoint(), nearV4+"/24")
	c := dialFrom(b, s, firstPort, farV4+":9000")
	k, err := l.Accept()
	check(b, err)
	pump(b, k, c)
	report(b, p.Stats())
}
