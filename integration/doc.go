// Package integration holds end-to-end tests: the binary runs as real processes inside network namespaces, and what
// it says is checked against captures from the router between them.
//
// They need root on Linux; packages netlab, decode and lossy are the instruments. With INNERTUN_RACE=1 the binary is
// built with the race detector.
package integration
