//go:build !race

package innerspace_test

// allocsPerWrite is how many allocations a Write and a Read may take together.
const allocsPerWrite = 0
