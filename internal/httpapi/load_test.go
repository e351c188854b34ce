package httpapi

import (
	"testing"
	"time"
)

func TestLoadIsCountedInPartsOfTheHour(t *testing.T) {
	t.Parallel()
	now, points := time.Unix(3000, 0), int64(7)
	l := &Load{now: func() time.Time { return now }}
	l.CountPoints(func() int64 { return points })
	for range 98 {
		l.wrote(time.Millisecond)
	}
	l.wrote(time.Second)
	l.wrote(time.Second)
	l.asked(20 * time.Microsecond)
	points += 500
	now = now.Add(2 * loadPart)
	parts := l.Parts(3)
	if len(parts) != 3 || !parts[2].Start.Equal(time.Unix(3030, 0)) {
		t.Fatalf("%+v", parts)
	}
	got := parts[1]
	if got.Writes != 100 || got.Points != 500 || got.Queries != 1 || got.QueryP99 != shortest {
		t.Errorf("%+v", got)
	}
	if got.WriteP99 < time.Second || got.WriteP99 > 1200*time.Millisecond {
		t.Errorf("p99 of the writes is %s", got.WriteP99)
	}
	for _, i := range []int{0, 2} {
		if p := parts[i]; p.Writes+p.Queries+p.Points != 0 {
			t.Errorf("part %d: %+v", i, p)
		}
	}
	now = now.Add(LoadParts * loadPart)
	for _, p := range l.Parts(LoadParts) {
		if p.Writes != 0 {
			t.Errorf("an hour later: %+v", p)
		}
	}
}

func TestOneSlowAnswerOfAHundredIsNoPercentile(t *testing.T) {
	t.Parallel()
	var all times
	for range 99 {
		all.add(time.Millisecond)
	}
	all.add(time.Hour)
	if got := all.p99(); got < time.Millisecond || got > 1200*time.Microsecond {
		t.Errorf("%s", got)
	}
}
