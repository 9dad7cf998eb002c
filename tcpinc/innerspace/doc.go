// Package innerspace puts control options inside the data of a TCP connection, from its first SYN on, after
// draft-briscoe-tcpm-inner-space-01. The formats are in docs/inner-space.md.
//
// The codec is pure: no I/O, no clock, no goroutine. AppendSYN and ParseSYN are for the data of a SYN or SYN-ACK; from
// then on the stream is made of units, each a header of 4 octets, options and payload, which an Encoder writes around
// payload that is in place already, and a Decoder finds in a stream that comes in any pieces. The options have the format
// and the kinds of TCP options; the project's own are listed in registry.go.
//
// A Stream is the layer made of these, between an application and the byte stream below it.
package innerspace
