// Package tun makes the TUN device that applications' connections come in by, and diverts into it what belongs there:
// TCP connections of this host that are new, outgoing, and would leave by one physical interface. Applications keep the
// source address they would have had.
//
// How it is done: an nftables table marks such connections at their first SYN ([host.MarkTable]), a policy rule sends
// marked packets to a routing table of our own, and that table's only route is the device. When the process dies, the
// table, the device and the route vanish with it. The rule, which then matches nothing, is in the journal, and so is a
// [host.Guard], which keeps what applications still send on diverted connections off the wire.
//
// Not diverted, by design: sockets with a mark (SO_MARK), sockets bound to an interface (SO_BINDTODEVICE), and IPv6
// link-local destinations.
package tun
