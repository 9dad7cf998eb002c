// Package netlab builds small networks out of network namespaces for end-to-end tests: a client, a router and a
// server, joined by veth pairs, with middleboxes, captures and ordinary servers on them. It needs root.
//
//	 client namespace        router namespace             server namespace
//	+----------------+      +--------------------------+      +----------------+
//	| eth0           |      | c0                    s0 |      | eth0           |
//	| 198.18.1.2/24  +------+ 198.18.1.1    198.18.2.1 +------+ 198.18.2.2/24  |
//	| fd00:1::2/64   | near | fd00:1::1      fd00:2::1 | far  | fd00:2::2/64   |
//	+----------------+ link |                          | link +----------------+
//	                        |  iptables (middlebox)    |   |
//	                        |  tcpdump on c0 or s0     |   |
//	                        +--------------------------+   |
//	                                                       |
//	With Options.Wire the far link passes through a fourth namespace, in which a program of the test's own carries
//	frames from one interface to the other, all offloads being off on the way:
//
//	  router s0 ------ left [ wire namespace ] right ------ server eth0
//
// Options.PathMTU makes the router's two routes narrower than every interface, so that only ICMP tells the hosts.
package netlab
