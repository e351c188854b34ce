// Package values stands in for the Flux values; see the parent package.
package values

import "time"

// Time is nanoseconds since the epoch.
type Time int64

// String is the time in UTC.
func (t Time) String() string { return time.Unix(0, int64(t)).UTC().Format(time.RFC3339Nano) }

// Duration is a span of months or of nanoseconds.
type Duration struct {
	nsecs, months int64
	negative      bool
}

// MakeDuration returns the span of the given parts.
func MakeDuration(nsecs, months int64, negative bool) Duration {
	return Duration{nsecs: nsecs, months: months, negative: negative}
}

// Nanoseconds is the part that is not in months.
func (d Duration) Nanoseconds() int64 {
	if d.negative {
		return -d.nsecs
	}
	return d.nsecs
}

// Months is the part in months.
func (d Duration) Months() int64 { return d.months }

// IsZero tells whether the span is empty.
func (d Duration) IsZero() bool { return d.nsecs == 0 && d.months == 0 }
