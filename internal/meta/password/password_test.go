package password

import (
	"errors"
	"testing"

	emeta "github.com/influxdata/influxdb/services/meta"
	"golang.org/x/crypto/bcrypt"
)

// The password of an unknown user costs what that of a user does.
func TestUnknownUsersCostAComparison(t *testing.T) {
	t.Parallel()
	if cost, err := bcrypt.Cost([]byte(noHash)); err != nil || cost != bcrypt.DefaultCost {
		t.Errorf("cost %d, %v", cost, err)
	}
	err := bcrypt.CompareHashAndPassword([]byte(noHash), []byte("pw"))
	if !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		t.Errorf("it is not compared: %v", err)
	}
}

// Wrong passwords do not pile up, and keep nobody out whose password is known to be right.
func TestPasswordsThatWaitAreBounded(t *testing.T) {
	t.Parallel()
	hash, err := bcrypt.GenerateFromPassword([]byte("right"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	known, other := &emeta.UserInfo{Name: "known", Hash: string(hash)}, &emeta.UserInfo{
		Name: "other", Hash: string(hash),
	}
	c := NewChecker()
	if err := c.Check(known, "right"); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name     string
		full     bool
		user     *emeta.UserInfo
		password string
		want     error
	}{
		{"a right password", false, other, "right", nil},
		{"a wrong password", false, known, "wrong", emeta.ErrAuthenticate},
		{"an unknown user", false, nil, "right", emeta.ErrUserNotFound},
		{"a remembered password", true, known, "right", nil},
		{"a wrong password", true, known, "wrong", ErrBusy},
		{"an unknown user", true, nil, "right", ErrBusy},
		{
			"a user whose password changed", true, &emeta.UserInfo{Name: "known", Hash: string(hash) + "x"}, "right",
			ErrBusy,
		},
	} {
		for step.full && len(c.waiting) < cap(c.waiting) {
			if _, err := c.Reserve(); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Check(step.user, step.password); !errors.Is(err, step.want) || (err == nil) != (step.want == nil) {
			t.Errorf("%s, full is %v: %v, want %v", step.name, step.full, err, step.want)
		}
	}
	if len(c.running) != 0 || len(c.waiting) != cap(c.waiting) {
		t.Errorf("%d comparisons are counted, and %d passwords", len(c.running), len(c.waiting))
	}
}
