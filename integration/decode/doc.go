// Package decode reads captures of TCP connections that use TCP-ENO (RFC 8547) and tcpcrypt (RFC 8548), checks
// what is on the wire against the texts of these RFCs, and decrypts it with a key log; and those that use Inner Space (docs/inner-space.md). It is written from the texts
// alone and shares no code with package tcpinc, so that a mistake made there is not made here again.
package decode
