package order

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestClock(t *testing.T) {
	t.Parallel()
	path, at := filepath.Join(t.TempDir(), "clock"), time.Unix(1_800_000_000, 0)
	now := func() time.Time { return at }
	open := func() *Clock {
		c, err := OpenClock(path, now, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		c.SetNode(300)
		return c
	}
	c := open()
	last := Version(0)
	grows := func(what string) {
		t.Helper()
		for range 1000 {
			now := c.Now()
			v := c.Next()
			if v <= last || v < now || v > c.Now() || v&0xff != 300&0xff {
				t.Fatalf("%s: %x comes after %x, with the time %x", what, v, last, now)
			}
			last = v
		}
	}
	grows("at first")
	if got := last.Time().Sub(at); got < 0 || got > time.Second {
		t.Errorf("the version is of %v, want %v", last.Time(), at)
	}
	at = at.Add(-10 * time.Minute)
	grows("after the time went back")
	crashed := c
	t.Cleanup(func() { crashed.Close() })
	c = open() // as after a crash
	grows("after a restart")
	far := AtTime(at.Add(time.Hour))
	if err := c.Heard(far); err != nil {
		t.Fatal(err)
	}
	last = far
	at = at.Add(time.Minute)
	if got := c.Next().Time().Sub(far.Time()); got < time.Minute || got > time.Minute+time.Millisecond {
		t.Errorf("a minute after another node's clock was ahead, this one is %v after it", got)
	}
	grows("after another node's clock was ahead")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c = open()
	grows("after another restart")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		bad := slices.Clone(b)
		bad[i] ^= 1
		if err := os.WriteFile(path, bad, 0o640); err != nil {
			t.Fatal(err)
		}
		if c, err := OpenClock(path, now, zap.NewNop()); err == nil {
			c.Close()
			t.Errorf("byte %d is damaged, and nobody says so", i)
		} else if errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "\n") {
			t.Errorf("byte %d: %v", i, err)
		}
	}
}

// A version that was heard is not passed backwards after a crash: writes that came after it were acknowledged.
func TestVersionForPeople(t *testing.T) {
	t.Parallel()
	v := AtTime(time.Date(2026, 1, 2, 3, 4, 5, 60_000, time.UTC)) | 15<<nodeBits | 255
	if got, want := v.String(), "2026-01-02T03:04:05.000060Z #15 node 255"; got != want {
		t.Errorf("it is %q, want %q", got, want)
	}
}

func TestClockRemembersWhatItHeardOverACrash(t *testing.T) {
	t.Parallel()
	path, at := filepath.Join(t.TempDir(), "clock"), time.Unix(1_800_000_000, 0)
	now := func() time.Time { return at }
	c, err := OpenClock(path, now, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	far := AtTime(at.Add(time.Hour))
	if err := c.Heard(far); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path) // as a crash leaves it
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o640); err != nil {
		t.Fatal(err)
	}
	if c, err = OpenClock(path, now, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	if v := c.Next(); v <= far {
		t.Errorf("after the crash the clock gives %v, and had heard of %v", v.Time(), far.Time())
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// One node with a wrong year does not move the clocks of the others. It is logged once.
func TestClockRefusesVersionsThatAreFarAhead(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_800_000_000, 0)
	core, logs := observer.New(zapcore.WarnLevel)
	c, err := OpenClock(filepath.Join(t.TempDir(), "clock"), func() time.Time { return at }, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	for _, v := range []Version{AtTime(at.Add(25 * time.Hour)), AtTime(at.AddDate(100, 0, 0)), math.MaxUint64} {
		if err := c.Heard(v); !errors.Is(err, ErrFarAhead) {
			t.Errorf("%x: error is %v, want %v", v, err, ErrFarAhead)
		}
		if got := c.Next().Time().Sub(at); got > time.Second {
			t.Errorf("%x moved the clock by %v", v, got)
		}
	}
	if logs.Len() != 1 {
		t.Errorf("it was logged %d times, want once", logs.Len())
	}
	if err := c.Heard(AtTime(at.Add(23 * time.Hour))); err != nil {
		t.Errorf("a clock that is 23 hours ahead is refused: %v", err)
	}
}

// The time of a machine may be wrong when it starts. The clock then goes by what it was before.
func TestClockOfAMachineThatLostItsTime(t *testing.T) {
	t.Parallel()
	path, at := filepath.Join(t.TempDir(), "clock"), time.Unix(1_800_000_000, 0)
	now := func() time.Time { return at }
	c, err := OpenClock(path, now, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	other := AtTime(at.Add(time.Hour))
	at = time.Unix(-100, 0)
	if c, err = OpenClock(path, now, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Heard(c.Next()); err != nil {
		t.Errorf("the clock refuses a version that it gave: %v", err)
	}
	if err := c.Heard(other); err != nil {
		t.Errorf("the clock of another node is refused: %v", err)
	}
	if v := c.Next(); v <= other {
		t.Errorf("the clock gives %v, and had heard of %v", v.Time(), other.Time())
	}
}

// machine is one with a clock of writes. It may be told that some time has passed, and that its time is off.
type machine struct {
	*Clock
	passed, off time.Duration
}

var began = time.Unix(1_800_000_000, 0)

// newMachine returns a machine whose clock is ahead of its time, as that of another node was.
func newMachine(t *testing.T, ahead time.Duration) *machine {
	t.Helper()
	m := &machine{}
	c, err := OpenClock(filepath.Join(t.TempDir(), "clock"), m.now, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	m.Clock = c
	passed := func(at time.Time) time.Duration {
		d, err := time.ParseDuration(at.Location().String())
		if err != nil {
			t.Error(err)
		}
		return d
	}
	c.between = func(earlier, later time.Time) time.Duration { return passed(later) - passed(earlier) }
	m.hear(t, ahead)
	return m
}

// now is the time of the machine. Its zone says how much has passed, as two of them may be the same.
func (m *machine) now() time.Time {
	return began.Add(m.passed + m.off).In(time.FixedZone(m.passed.String(), 0))
}

func (m *machine) hear(t *testing.T, ahead time.Duration) {
	t.Helper()
	if err := m.Heard(AtTime(began.Add(m.passed + ahead))); err != nil {
		t.Fatal(err)
	}
}

// run looks at the clock after each step, with the time of the machine off by so much.
func (m *machine) run(step time.Duration, off ...time.Duration) {
	for _, m.off = range off {
		m.passed += step
		m.Next()
	}
}

// ahead is by how much the clock is ahead of the time that has passed.
func (m *machine) ahead() time.Duration { return m.Next().Time().Sub(began.Add(m.passed)) }

func (m *machine) wantAhead(t *testing.T, least, most time.Duration) {
	t.Helper()
	if ahead := m.ahead(); ahead < least || ahead > most {
		t.Errorf("the clock is %v ahead, want %v to %v", ahead, least, most)
	}
}

// A process that is not scheduled for a moment between its looks at the time and at how much has passed finds a time
// that is behind once. The time is not set forward when the next look is right again.
func TestPauseDuringALookDoesNotPutTheClockBack(t *testing.T) {
	t.Parallel()
	m := newMachine(t, time.Hour)
	for range 10 {
		m.run(100*time.Millisecond, 0, -5*time.Millisecond, 0)
	}
	m.wantAhead(t, time.Hour-time.Millisecond, time.Hour+time.Millisecond)
}

// What has passed since the last look counts, also when the time of the machine was set back since.
func TestClockDoesNotLagWhenTheTimeIsSetBack(t *testing.T) {
	t.Parallel()
	m := newMachine(t, 0)
	for range 10 {
		m.run(900*time.Millisecond, m.off-time.Minute)
		m.wantAhead(t, -time.Millisecond, time.Millisecond)
	}
}

// A step of the machine's time that is undone at once leaves the clock where it was, whichever way it goes first.
func TestStepsThatAreUndoneLeaveTheClockWhereItWas(t *testing.T) {
	t.Parallel()
	for name, steps := range map[string][]time.Duration{
		"back and forth":          {-time.Hour, 0, 0},
		"back, and in two steps":  {-time.Hour, -time.Minute, 0},
		"forth and back":          {10 * time.Second, 0, 0, 0},
		"back twice":              {-time.Minute, -time.Hour, 0, 0},
		"forth, before two looks": {10 * time.Second, 10 * time.Second, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, time.Hour)
			for range 60 {
				m.run(100*time.Millisecond, steps...)
			}
			m.wantAhead(t, time.Hour-time.Millisecond, time.Hour+time.Millisecond)
		})
	}
}

// The two times of a look never agree to the nanosecond. That does not add up.
func TestLooksThatAreNotExactDoNotMoveTheClock(t *testing.T) {
	t.Parallel()
	m := newMachine(t, time.Hour)
	for i := range 100_000 {
		m.run(10*time.Microsecond, -time.Duration(i*7919%1000)*time.Nanosecond)
	}
	m.wantAhead(t, time.Hour-time.Millisecond, time.Hour+time.Millisecond)
}

func TestTimeThatGoesBackAndForthDoesNotCarryTheClockAhead(t *testing.T) {
	t.Parallel()
	m := newMachine(t, 0)
	for range 20 {
		for _, m.off = range []time.Duration{10 * time.Minute, -10 * time.Minute, 0} {
			before := m.Next()
			m.passed += time.Second
			if v := m.Next(); v <= before || v.Time().Before(m.now()) {
				t.Fatalf("with the time %v off, %v comes after %v", m.off, v.Time(), before.Time())
			}
		}
	}
	m.wantAhead(t, 0, 10*time.Minute+time.Second) // the time never was more than ten minutes ahead
	m.passed += time.Minute
	m.hear(t, time.Hour)
	m.run(time.Second, 30*time.Minute)
	m.wantAhead(t, time.Hour, time.Hour+time.Second)
}

// What a clock reached when its file was written is not after its last version, and seconds before it at most.
func TestReachedIsBeforeTheLastVersion(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "clock")
	if got := Reached(path); got != 0 {
		t.Errorf("without a file: %v", got)
	}
	c, err := OpenClock(path, time.Now, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	last := c.Next()
	for _, when := range []string{"while it runs", "closed"} {
		if got := Reached(path); got > last || last.Time().Sub(got.Time()) > 2*ahead {
			t.Errorf("%s: reached %v, and the last version is %v", when, got, last)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := Reached(path); got != 0 {
		t.Errorf("of a damaged file: %v", got)
	}
}

// What Now has returned stays a bound when the time of the machine is set back, and after a crash.
func TestNoVersionIsBelowATimeThatWasTold(t *testing.T) {
	t.Parallel()
	path, at := filepath.Join(t.TempDir(), "clock"), time.Unix(1_800_000_000, 0)
	open := func() *Clock {
		c, err := OpenClock(path, func() time.Time { return at }, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	c := open()
	c.Next()
	at = at.Add(time.Second)
	told := c.Now()
	at = at.Add(-time.Second / 2)
	if v := c.Next(); v <= told {
		t.Errorf("version %v, although %v was told", v, told)
	}
	at = at.Add(time.Hour)
	told = c.Now() // nothing was written for an hour
	at = at.Add(-time.Second)
	if v := open().Next(); v <= told {
		t.Errorf("version %v after a crash, although %v was told", v, told)
	}
}
