package link

import "sync/atomic"

// Stats counts what passed a link, and what did not. All are packets unless the name says otherwise.
type Stats struct {
	Received      uint64
	ReceivedBytes uint64
	ReadCalls     uint64 // system calls that returned packets

	DroppedByKernel uint64 // the receive buffer was full (AF_PACKET only)
	Fragments       uint64 // TCP fragments, dropped
	BadChecksums    uint64 // IPv4 header or TCP checksum wrong, dropped
	Malformed       uint64 // not an IP or ARP packet, or shorter than it says, dropped

	Sent       uint64
	SentBytes  uint64
	WriteCalls uint64
	SendFull   uint64 // dropped: the send buffer or the interface's queue stayed full
	SendErrors uint64 // dropped: any other error
	SendWaits  uint64 // times a sender waited for room in the send buffer
}

type counters struct {
	received, receivedBytes, readCalls                           atomic.Uint64
	kernelDrops, fragments, badChecksums, malformed              atomic.Uint64
	sent, sentBytes, writeCalls, sendFull, sendErrors, sendWaits atomic.Uint64
}

func (c *counters) snapshot() Stats {
	return Stats{
		Received:        c.received.Load(),
		ReceivedBytes:   c.receivedBytes.Load(),
		ReadCalls:       c.readCalls.Load(),
		DroppedByKernel: c.kernelDrops.Load(),
		Fragments:       c.fragments.Load(),
		BadChecksums:    c.badChecksums.Load(),
		Malformed:       c.malformed.Load(),
		Sent:            c.sent.Load(),
		SentBytes:       c.sentBytes.Load(),
		WriteCalls:      c.writeCalls.Load(),
		SendFull:        c.sendFull.Load(),
		SendErrors:      c.sendErrors.Load(),
		SendWaits:       c.sendWaits.Load(),
	}
}
