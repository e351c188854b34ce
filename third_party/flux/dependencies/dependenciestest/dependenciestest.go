// Package dependenciestest is empty: only tests of the engine name it, and go mod tidy asks
// that it exists. See the parent package.
package dependenciestest
