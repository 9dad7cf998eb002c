// Package imports holds the rule of which layer may import which, as a test. docs/architecture.md draws the layers.
package imports
