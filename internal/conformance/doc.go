// Package conformance holds the documentation to the tree, as a test: what it names must exist.
package conformance
