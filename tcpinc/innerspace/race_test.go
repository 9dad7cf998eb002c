//go:build race

package innerspace_test

// allocsPerWrite is how many allocations a Write and a Read may take together: under the race detector sync.Pool drops
// what it is given at random.
const allocsPerWrite = 8
