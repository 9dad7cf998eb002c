// Package tcpcrypt encrypts a TCP stream as RFC 8548 wants it, once TCP-ENO (RFC 8547) has negotiated one of its TEPs.
//
// A Conn is the encrypted stream over a Transport. Below it everything is pure: the two Init messages (Init1, Init2),
// the key exchange (offer, answer), the key schedule (secret, masterKey), and the frames of one direction (direction).
//
// Three readings of RFC 8548 that its text leaves room for:
//
//   - The offset in a frame's nonce counts the Init message that opened the direction's stream: "the underlying TCP
//     datastream" begins with the first octet of data after the SYN. RFC 8548, Section 3.6.
//   - pubkey_len counts its own two octets, as the indices of the figure say; one that does not is understood.
//     RFC 8548, Section 5.
//   - A frame with FINp ends the stream at once: io.EOF is reported without waiting for FIN, and octets that came
//     with it and after it are an error. RFC 8548, Section 3.7.
package tcpcrypt
