package password

import (
	"errors"
	"fmt"
	"testing"

	emeta "github.com/influxdata/influxdb/services/meta"
	"golang.org/x/crypto/bcrypt"

	"concord/internal/meta/passwordhash"
)

// The password of an unknown user is compared with a hash of the kinds and costs that users have, as often as that of a
// known one.
func TestUnknownUsersCostWhatUsersDo(t *testing.T) {
	t.Parallel()
	if cost, err := bcrypt.Cost([]byte(noHash)); err != nil || cost != bcrypt.DefaultCost {
		t.Errorf("cost %d, %v", cost, err)
	}
	if passwordhash.Check(noHash) != nil || passwordhash.Match(noHash, "") {
		t.Error("it is not compared")
	}
	users := []emeta.UserInfo{
		{Name: "a", Hash: "$pbkdf2-sha256$29000$a"}, {Name: "b", Hash: "$2a$10$b"}, {Name: "c", Hash: "$2a$12$c"},
	}
	c := NewChecker()
	var compared []string
	c.match = func(hash, password string) bool {
		compared = append(compared, hash)
		return password == "right for all"
	}
	counts := make(map[string]int)
	for i := range 300 {
		name := fmt.Sprint("unknown", i)
		compared = nil
		for range 3 {
			if err := c.Check(users, nil, name, "right for all"); !errors.Is(err, emeta.ErrUserNotFound) {
				t.Fatal(err)
			}
		}
		if len(compared) != 3 || compared[0] != compared[1] || compared[0] != compared[2] {
			t.Fatalf("%s is compared with %v", name, compared)
		}
		counts[compared[0]]++
	}
	for _, u := range users {
		if counts[u.Hash] < 60 {
			t.Errorf("%s stands in for %d of 300 names", u.Name, counts[u.Hash])
		}
	}
	compared = nil
	if err := c.Check(nil, nil, "x", ""); !errors.Is(err, emeta.ErrUserNotFound) || compared[0] != noHash {
		t.Errorf("without users: %v, %v", compared, err)
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
	users := []emeta.UserInfo{*known, *other}
	c := NewChecker()
	if err := c.Check(users, known, "known", "right"); err != nil {
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
		name := "unknown"
		if step.user != nil {
			name = step.user.Name
		}
		if err := c.Check(users, step.user, name, step.password); !errors.Is(err, step.want) || (err == nil) != (step.want == nil) {
			t.Errorf("%s, full is %v: %v, want %v", step.name, step.full, err, step.want)
		}
	}
	if len(c.running) != 0 || len(c.waiting) != cap(c.waiting) {
		t.Errorf("%d comparisons are counted, and %d passwords", len(c.running), len(c.waiting))
	}
}
