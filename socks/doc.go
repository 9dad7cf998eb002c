// Package socks is a SOCKS5 server (RFC 1928) for CONNECT requests, with user names and passwords (RFC 1929).
//
// It imports the standard library only. Where the connections it asks for come from is the affair of its Dial function,
// and what happens to their octets of its Relay function.
//
// Not offered: GSSAPI (RFC 1928, Section 3, demands it; no common client or server has it), BIND and UDP ASSOCIATE,
// which are answered with "command not supported".
package socks
