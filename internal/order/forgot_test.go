package order

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// A journal that is opened again does not look as if it knew all: a delete of long ago would run over newer points
// whose versions are forgotten.
func TestWhatWasForgottenIsKnownAfterARestart(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		cfg     JournalConfig
		forget  func(j *Journal) error
		dropped bool // below the floor
	}{
		"below the floor": {
			JournalConfig{MaxKeys: 1}, func(j *Journal) error { return j.SetFloor(500) }, true,
		},
		"because the journal is full": {JournalConfig{MaxKeys: 10, MaxMemory: 1, MaxDisk: 2000}, nil, false},
		"lost":                        {JournalConfig{}, func(j *Journal) error { return j.Lost(77) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.cfg.Dir = t.TempDir()
			j := mustJournal(t, tt.cfg)
			if err := j.SetBegins(1); err != nil {
				t.Fatal(err)
			}
			for v := Version(2); v <= 500; v++ {
				write(t, j, v, fmt.Sprintf("m x=1 %d", v))
			}
			if tt.forget != nil {
				if err := tt.forget(j); err != nil {
					t.Fatal(err)
				}
			}
			forgot, since := j.Forgot(), j.Since()
			if forgot < 2 || tt.dropped != (since == 0) {
				t.Fatalf("it has forgotten up to %d, and knows all above the floor since %d", forgot, since)
			}
			for range 2 {
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
				j = mustJournal(t, tt.cfg)
				if err := j.SetBegins(1000); err != nil {
					t.Fatal(err)
				}
				if j.Forgot() != forgot || j.Since() != since {
					t.Errorf("after a restart it has forgotten up to %d and knows since %d, want %d and %d",
						j.Forgot(), j.Since(), forgot, since)
				}
			}
		})
	}
}

// Without the file, which earlier builds did not write, anything from before the start may be forgotten. That stays so
// after another start.
func TestWithoutItsFileAJournalMayHaveForgottenAll(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(path string) error{
		"no file": os.Remove,
		"damaged": func(path string) error { return os.WriteFile(path, []byte("CORF"), 0o640) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			j := mustJournal(t, JournalConfig{Dir: dir})
			if err := j.SetBegins(1); err != nil {
				t.Fatal(err)
			}
			write(t, j, 5, "m x=1 1")
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			if err := spoil(filepath.Join(dir, forgotName)); err != nil {
				t.Fatal(err)
			}
			core, logs := observer.New(zapcore.WarnLevel)
			j, err := OpenJournal(JournalConfig{Dir: dir, Log: zap.New(core)})
			if err != nil {
				t.Fatal(err)
			}
			if err := j.SetBegins(50); err != nil {
				t.Fatal(err)
			}
			since := map[string]Version{"no file": 0, "damaged": 5}[name]
			if j.Forgot() != 50 || j.Since() != since || j.Damaged() || version(t, j, KeyOf(1, []byte("m"), "x", 1)) != 5 {
				t.Errorf("it has forgotten up to %d, and knows since %d", j.Forgot(), j.Since())
			}
			if warned := logs.Len() == 1; warned != (name == "damaged") {
				t.Errorf("the log has %v", logs.All())
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			j = mustJournal(t, JournalConfig{Dir: dir})
			if err := j.SetBegins(90); err != nil {
				t.Fatal(err)
			}
			if j.Forgot() != 50 {
				t.Errorf("after another start it has forgotten up to %d, want 50", j.Forgot())
			}
		})
	}
}

// Nothing below the floor is forgotten before the disk says so.
func TestNothingIsForgottenThatCannotBeNoted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := mustJournal(t, JournalConfig{Dir: dir, MaxKeys: 1})
	for v := Version(1); v <= 3; v++ {
		write(t, j, v, fmt.Sprintf("m x=1 %d", v))
	}
	obstacle := filepath.Join(dir, forgotName+".tmp")
	if err := os.MkdirAll(filepath.Join(obstacle, "full"), 0o750); err != nil {
		t.Fatal(err)
	}
	key := KeyOf(1, []byte("m"), "x", 1)
	if err := j.SetFloor(3); err == nil || version(t, j, key) != 1 {
		t.Errorf("%v; the version is %d, want an error, and 1", err, version(t, j, key))
	}
	if err := os.RemoveAll(obstacle); err != nil {
		t.Fatal(err)
	}
	if err := j.SetFloor(3); err != nil || version(t, j, key) != 0 {
		t.Errorf("%v; the version is %d, want none", err, version(t, j, key))
	}
}

func TestForgotOnDisk(t *testing.T) {
	t.Parallel()
	const golden = "434f5246000100000102030405060708000000000000000a786acc55"
	b := forgot{dropped: 0x0102030405060708, since: 10}.encode()
	if diff := cmp.Diff(golden, hex.EncodeToString(b)); diff != "" {
		t.Error(diff)
	}
	for at := range b {
		bad := append([]byte(nil), b...)
		bad[at] ^= 0x10
		if f, err := decodeForgot(bad); err == nil {
			t.Errorf("byte %d is damaged: it has %+v", at, f)
		}
	}
}

func FuzzDecodeForgot(f *testing.F) {
	f.Add(forgot{1, 2}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decodeForgot(b)
		if err == nil && !cmp.Equal(got.encode(), b) {
			t.Errorf("%x is read as %+v", b, got)
		}
	})
}
