package clocks

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/influxdata/influxdb/models"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"concord/internal/trust"
)

func TestHalfOfTheRoundTripIsNoSkew(t *testing.T) {
	t.Parallel()
	sent := time.Now().Add(-4 * time.Second) // the answer took four seconds
	s, ok := Measure(sent, sent.Add(2*time.Second).UnixNano())
	if !ok || s.By.Abs() > time.Second || s.Margin < 2*time.Second || s.Off() {
		t.Errorf("%+v, %v", s, ok)
	}
	// Three seconds may be the way of the answer; an hour is not.
	for ahead, off := range map[time.Duration]bool{5 * time.Second: false, time.Hour: true, -time.Hour: true} {
		if s, _ := Measure(sent, sent.Add(ahead).UnixNano()); s.Off() != off {
			t.Errorf("%s ahead: %+v", ahead, s)
		}
	}
	if _, ok := Measure(sent, 0); ok {
		t.Error("a node that does not say its time was measured")
	}
}

func TestMostClocksAreRight(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		by   []time.Duration
		want time.Duration
	}{
		{nil, 0},
		{[]time.Duration{0}, 0},
		{[]time.Duration{0, 5}, 0},
		{[]time.Duration{-5, 0}, 0},
		{[]time.Duration{0, 5, 6}, 5},
		{[]time.Duration{7, 0, 5, 6}, 5},
		{[]time.Duration{0, 1, -90}, 0},
	} {
		if got := Reference(tt.by); got != tt.want {
			t.Errorf("%d: %d, want %d", tt.by, got, tt.want)
		}
	}
}

func TestClockIsLoggedOncePerChange(t *testing.T) {
	t.Parallel()
	core, logged := observer.New(zap.InfoLevel)
	w := NewWatch(zap.New(core))
	now := time.Unix(1000, 0)
	w.now = func() time.Time { return now }
	for _, by := range []time.Duration{
		0, 900 * time.Millisecond,
		3 * time.Second, 2 * time.Second, 900 * time.Millisecond, 1100 * time.Millisecond, // off
		100 * time.Millisecond, -900 * time.Millisecond, // right
		-2 * time.Second, // off
	} {
		now = now.Add(time.Second)
		w.Observe("data2:8088", Skew{By: by, Margin: time.Millisecond})
	}
	w.Observe("data1:8088", Skew{})
	var got []string
	for _, e := range logged.All() {
		got = append(got,
			e.Level.String()+" "+e.ContextMap()["node"].(string)+" "+e.ContextMap()["ahead"].(time.Duration).String())
	}
	if d := cmp.Diff([]string{"warn data2:8088 3s", "info data2:8088 100ms", "warn data2:8088 -2s"}, got); d != "" {
		t.Error(d)
	}

	want := []models.Statistic{
		{
			Name: "clock", Tags: models.StatisticTags{"node": "data1:8088", "a": "b"},
			Values: map[string]any{"skewMs": int64(0), "off": int64(0)},
		},
		{
			Name: "clock", Tags: models.StatisticTags{"node": "data2:8088", "a": "b"},
			Values: map[string]any{"skewMs": int64(-2000), "off": int64(1)},
		},
	}
	if d := cmp.Diff(want, w.Statistics(map[string]string{"a": "b"})); d != "" {
		t.Error(d)
	}
	now = now.Add(kept + 1)
	if s := w.Statistics(nil); len(s) != 0 {
		t.Errorf("a node that was not observed for long is still there: %v", s)
	}
}

func TestNodeThatRefusesBecauseOfItsClockIsOff(t *testing.T) {
	t.Parallel()
	const secret = trust.Secret("s3cret")
	ended, err := secret.Token(-time.Hour) // for a node that is an hour ahead, and a minute
	if err != nil {
		t.Fatal(err)
	}
	refusal := fmt.Errorf("node a:1: %w", secret.Verify(ended))
	if s, ok := Ask(time.Now(), 0, refusal); !ok || !s.Off() || (s.By-time.Hour).Abs() > 2*time.Minute {
		t.Errorf("%+v, %v", s, ok)
	}
	if s, ok := Ask(time.Now(), 0, errors.New("away")); ok {
		t.Errorf("a node that is away: %+v", s)
	}
	if s, ok := Ask(time.Now(), time.Now().UnixNano(), nil); !ok || s.Off() {
		t.Errorf("a node that answers: %+v, %v", s, ok)
	}
}
