//go:build !race

package digest_test

const defaultLayouts, defaultSeries = 10_000, 100_000
