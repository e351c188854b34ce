// Package interval stands in for the Flux windows; see the parent package.
// Only the engine's storage API for Flux makes windows, and that is disabled.
package interval

import (
	"github.com/influxdata/flux"
	"github.com/influxdata/flux/values"
)

// Window divides time into equal parts.
type Window struct{}

// NewWindow fails: there are no Flux windows in this build.
func NewWindow(every, period, offset values.Duration) (Window, error) {
	return Window{}, flux.ErrUnavailable
}

// GetLatestBounds returns empty bounds.
func (Window) GetLatestBounds(values.Time) Bounds { return Bounds{} }

// IsZero is always true.
func (Window) IsZero() bool { return true }

// Every is zero.
func (Window) Every() values.Duration { return values.Duration{} }

// Bounds is one part of time.
type Bounds struct{}

// Start of the part.
func (Bounds) Start() values.Time { return 0 }

// Stop of the part.
func (Bounds) Stop() values.Time { return 0 }
