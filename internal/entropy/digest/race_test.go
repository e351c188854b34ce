//go:build race

package digest_test

// The race detector makes all of it some ten times slower, and finds nothing new in the later ones.
const defaultLayouts, defaultSeries = 500, 10_000
