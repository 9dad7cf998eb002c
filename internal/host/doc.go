// Package host makes the changes innertun needs on the host it runs on, and takes every one of them back.
//
// A [Journal] is the record of what is to be undone. It lies beside the control socket, is locked while its process
// lives, and is written out before each change, so that whatever a killed process left behind is undone by the next
// start ([Open]) or on request ([Clean]).
//
// What can vanish by itself does: nftables tables are owned by a netlink socket (NFT_TABLE_F_OWNER) and the kernel
// removes them with it. Reserved ports, policy rules, socket files and the [Guard], which is to outlive its
// process, are what the record is for.
//
// All of it acts on the network namespace of the calling thread.
package host
