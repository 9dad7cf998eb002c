package lab

import (
	"encoding/binary"
	"io"
)

// WritePcap writes packets as a capture file that tcpdump and Wireshark read: classic pcap, nanosecond times, raw IP.
func WritePcap(w io.Writer, packets []Captured) error {
	const (
		magic   = 0xa1b23c4d
		rawIP   = 101
		snapLen = 1 << 18
	)
	le := binary.LittleEndian
	b := le.AppendUint32(nil, magic)
	b = le.AppendUint16(b, 2) // version 2.4
	b = le.AppendUint16(b, 4)
	b = le.AppendUint64(b, 0) // time zone, accuracy
	b = le.AppendUint32(b, snapLen)
	b = le.AppendUint32(b, rawIP)
	for _, p := range packets {
		b = le.AppendUint32(b, uint32(p.At.Unix()))
		b = le.AppendUint32(b, uint32(p.At.Nanosecond()))
		b = le.AppendUint32(b, uint32(len(p.Data)))
		b = le.AppendUint32(b, uint32(len(p.Data)))
		b = append(b, p.Data...)
		if _, err := w.Write(b); err != nil {
			return err
		}
		b = b[:0]
	}
	_, err := w.Write(b)
	return err
}
