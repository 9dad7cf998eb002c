//go:build !race

package tcpcrypt

// allocsPerWrite is how many allocations a Write and a Read may take together.
const allocsPerWrite = 0
