//go:build !race

package digest_test

const defaultLayouts, defaultSeries = 3_000, 100_000
