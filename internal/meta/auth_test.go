package meta

import (
	"errors"
	"net/http"
	"testing"

	emeta "github.com/influxdata/influxdb/services/meta"
	"golang.org/x/crypto/bcrypt"

	"concord/internal/meta/metaconfig"
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
	known, other := &emeta.UserInfo{Name: "known", Hash: string(hash)}, &emeta.UserInfo{Name: "other", Hash: string(hash)}
	a := newAuthCache()
	if err := a.check(known, "right"); err != nil {
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
		{"a wrong password", true, known, "wrong", errBusy},
		{"an unknown user", true, nil, "right", errBusy},
		{"a user whose password changed", true, &emeta.UserInfo{Name: "known", Hash: string(hash) + "x"}, "right", errBusy},
	} {
		for step.full && len(a.admitted) < cap(a.admitted) {
			a.admitted <- struct{}{}
		}
		if err := a.check(step.user, step.password); !errors.Is(err, step.want) || (err == nil) != (step.want == nil) {
			t.Errorf("%s, full is %v: %v, want %v", step.name, step.full, err, step.want)
		}
	}
	if len(a.running) != 0 || len(a.admitted) != cap(a.admitted) {
		t.Errorf("%d comparisons are counted, and %d passwords", len(a.running), len(a.admitted))
	}
}

func TestBusyMetaNodeSaysSo(t *testing.T) {
	t.Parallel()
	m := &testMeta{cfg: metaconfig.New()}
	m.cfg.Meta.Dir = t.TempDir()
	m.cfg.Meta.BindAddress, m.cfg.Meta.HTTPBindAddress = "127.0.0.1:0", "127.0.0.1:0"
	m.cfg.Meta.AuthEnabled, m.cfg.Meta.InternalSharedSecret, m.cfg.SingleServer = true, "secret", true
	m.start(t)
	t.Cleanup(func() { m.Close() })
	if err := m.changeUser("create", userBody{Name: "paul", Password: "right"}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		full           bool
		user, password string
		code           int
	}{
		{false, "paul", "wrong", 401},
		{false, "nobody", "wrong", 401},
		{false, "paul", "right", 200},
		{true, "paul", "right", 200},
		{true, "paul", "wrong", 503},
		{true, "nobody", "wrong", 503},
	} {
		for step.full && len(m.auth.admitted) < cap(m.auth.admitted) {
			m.auth.admitted <- struct{}{}
		}
		req, err := http.NewRequest("GET", "http://"+m.HTTPAddr()+"/status", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth(step.user, step.password)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != step.code || (resp.Header.Get("Retry-After") != "") != (step.code == 503) {
			t.Errorf("%s:%s, full is %v: %s, want %d", step.user, step.password, step.full, resp.Status, step.code)
		}
	}
}
